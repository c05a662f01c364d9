"""A reward model on labelled responses: the numbers by hand, and where they are reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_plugins import run_recipe
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.evaluate.labelled import agreement, labelled
from rlhf_plugins.report.schema import LabelsReport, Report, RewardModelReport
from rlhf_plugins.testing import tiny_base

ASKED = ["who ", "why ", "how ", "what ", "is ", "the "]


def test_agreement_by_hand() -> None:
    found = agreement(np.array([2.0, -1.0, 0.0, -3.0]), np.array([True, True, False, False]))
    assert found["accuracy"]["mean"] == 2.5 / 4  # right, wrong, at 0, right
    losses = (np.log1p(np.exp(-2)), np.log1p(np.exp(1)), np.log(2), np.log1p(np.exp(-3)))
    assert found["cross_entropy"] == pytest.approx(np.mean(losses))
    assert found["auc"] == 3 / 4  # 2 is above 0 and -3, -1 above -3 alone
    assert (found["desirable"], found["n"]) == (0.5, 4)


def test_an_undesirable_response_has_a_label_too() -> None:
    groups = [Group("q", ("yes",), label=True), Group("q", ("no",), label=False), Group("q", ("yes", "no"), (0, 1))]
    assert labelled(groups) == groups[:2]


def test_wilsons_interval_by_hand() -> None:
    found = agreement(np.ones(4), np.full(4, True))
    z2 = 1.959964**2  # of 4 right of 4: n / (n + z^2) to 1
    assert found["accuracy"] == pytest.approx({"mean": 1.0, "low": 4 / (4 + z2), "high": 1.0})
    assert found["auc"] is agreement(np.ones(4), np.full(4, False))["auc"] is None


def test_labelled_rows_alone_are_measured_and_reported(tmp_path: Path) -> None:
    rows = [{"prompt": p, "completion": word, "label": word == "ant"} for p in ASKED for word in ("ant", "bee")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    trainer = {"max_steps": 12, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "disable_tqdm": True}
    stages = [{"stage": "reward_model", "loss": "label_cross_entropy", "trainer": trainer}, "evaluate_reward"]
    data = {"format": "supervised", "source": str(tmp_path / "rows.jsonl")}
    base, out = tiny_base(tmp_path / "base").path, tmp_path / "run"
    run_recipe({"base": base, "data": data, "stages": stages, "output_dir": str(out)})
    (row,) = Report.model_validate_json((out / "report.json").read_text()).reward_models.values()
    assert (row.n, row.accuracy) == (0, None)
    assert row.labels is not None
    assert (row.labels.n, row.labels.desirable, row.labels.auc) == (4, 0.5, 1.0)
    assert "reward_model agrees with 100.0% (95% CI" in (out / "report.html").read_text()


def test_a_report_with_labels_alone_has_rows_of_them() -> None:
    from rlhf_plugins.report.reward_table import sections

    labels = LabelsReport(accuracy={"mean": 0.5, "low": 0.2, "high": 0.8}, cross_entropy=0.7, auc=0.6, desirable=1, n=4)
    (main,) = sections({"one": RewardModelReport(accuracy=None, ece=None, n=0, labels=labels)})
    assert {row.label: row.cells[0] for row in main.rows}["accuracy of labels (95% CI)"] == "50.0% [20.0, 80.0]"
