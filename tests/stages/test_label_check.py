"""The stage that lists contradicted labels: flipped ones are found, and no model judges what it was trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_plugins import RunError
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Group, Origin, Samples
from rlhf_plugins.contract.run import Base, StageResult
from rlhf_plugins.data.columns import columns_of
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.stages.label_check import _dealt, _judged
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

FEW = {"max_steps": 12, "learning_rate": 1e-2, "disable_tqdm": True}
FLIPPED = (3, 17, 30, 41)


def flipped(group: Group) -> Group:
    return replace(group, responses=group.responses[::-1])


def rows() -> list[Group]:
    pairs = (replace(group, origin=Origin("rows", i)) for i, group in enumerate(tiny_pairs(48)))
    return [flipped(group) if i in FLIPPED else group for i, group in enumerate(pairs)]


def checked(folder: Path, groups: list[Group], **options: Any) -> StageResult:
    base = Base(tiny_base(folder / "base").path)
    spec = {"use": "label_check", "folds": 2, "trainer": FEW, **options}
    result: StageResult = component("stage", spec).run(tiny_run(base, folder / "run", groups))
    return result


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageResult]:
    folder = tmp_path_factory.mktemp("checked")
    return folder / "run", checked(folder, rows(), suspects="dropped")


def test_flipped_labels_are_suspect(dropped: tuple[Path, StageResult]) -> None:
    folder, result = dropped
    listed = [json.loads(line) for line in (folder / "suspects.jsonl").read_text().splitlines()]
    found = [int(row["origin"].partition(":")[2]) for row in listed]
    assert len(set(FLIPPED) & set(found)) >= 3
    assert len(found) <= 16  # of 48, of which 4 are wrong, by models that saw 24 rows
    assert [row["probability"] for row in listed] == sorted(row["probability"] for row in listed)
    assert result.metrics["suspects"] == len(listed)
    assert not (folder / "folds").exists()


def test_what_is_handed_on_is_counted_and_has_a_difficulty(dropped: tuple[Path, StageResult]) -> None:
    _, result = dropped
    assert result.data is not None
    assert result.data.dropped == {"label_check: contradicted by a reward model": result.metrics["suspects"]}
    assert len(result.data.train) == 48 - result.metrics["suspects"]
    assert "difficulty" in columns_of(result.data.train)
    assert all(0 <= (group.difficulty or 0) <= 0.5 for group in result.data.train)


def test_a_budget_that_ended_the_training_of_a_fold_is_noted(tmp_path: Path) -> None:
    notes = checked(tmp_path, rows()[:8], budget={"seconds": 0.0}).report.notes
    assert [note.partition(" ended")[0] for note in notes] == [f"Fold {i}: The budget of 0 seconds" for i in (0, 1)]


def test_rows_of_a_prompt_are_in_one_fold() -> None:
    groups = [Group(f"{'qQ'[i % 2]}{i % 7}", ("a", "b"), (0, 1)) for i in range(21)]
    dealt = _dealt(groups, 3, 0)
    assert dealt[:7] == dealt[7:14] == dealt[14:]
    assert sorted(dealt[:7].count(fold) for fold in range(3)) == [2, 2, 3]


class ByColumn:
    """A reward model that reads a column: 1 for the first response where it is 1, else for the second."""

    def predict(self, samples: Samples) -> Prediction:
        first = [response == "ant" for response in samples.responses]
        return Prediction(torch.tensor([float(a == b) for a, b in zip(first, samples.columns["wanted"], strict=True)]))


def test_rows_that_differ_in_a_column_have_their_own_rewards(tmp_path: Path) -> None:
    texts = ("ant", "bee")
    groups = [Group("how ", texts, (0, 1), columns={"wanted": wanted}) for wanted in (True, False)]
    found = _judged(ByColumn(), Base(tiny_base(tmp_path / "base").path), groups, [0, 1])
    assert [one.probability for one in found] == pytest.approx([0.7310586, 0.2689414])  # sigmoid(1), sigmoid(-1)


def test_more_folds_than_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="folds: 9, but there are 4 prompts"):
        checked(tmp_path, list(tiny_pairs(4)), folds=9)
