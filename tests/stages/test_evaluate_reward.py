"""Every reward model of a run is measured on held-out pairs, whatever base and head it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from marks import slow

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Base, Run, StageResult
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.report.schema import RewardModelReport
from rlhf_plugins.stages.evaluate_reward import EvaluateReward, Measured, _left_out
from rlhf_plugins.stages.reward_model import RewardModelStage
from rlhf_plugins.testing import tiny_base, tiny_encoder, tiny_pairs, tiny_run

FEW = {"max_steps": 24, "learning_rate": 1e-2, "logging_steps": 24, "disable_tqdm": True}
ALL = "accuracy calibration certificate consistency cross_entropy pac_bayes robustness speed uncertainty"


def trained(base: Base, folder: Path, name: str = "reward", **parts: str) -> StageResult:
    names = {"pooling": "mean", "head": "scalar", "loss": "bradley_terry"} | parts
    kinds = {"pooling": "pooling", "head": "reward_head", "loss": "reward_loss"}
    made = {part: component(kinds[part], used) for part, used in names.items()}
    shuffled = component("sampler", "shuffled")
    stage = RewardModelStage(**made, sampler=shuffled, name=name, trainer=FEW)
    return stage.run(tiny_run(base, folder / name, tiny_pairs(64)))


def evaluate(names: str = "accuracy calibration") -> EvaluateReward:
    return EvaluateReward(metrics=tuple(component("metric", name) for name in names.split()))


def rows(stage: EvaluateReward, run: Run) -> dict[str, Any]:
    return stage.run(run).report.reward_models


def held_out(run: Run, test: Sequence[Group], strange: Sequence[Group] = ()) -> Run:
    return replace(run, data=replace(run.data, test=tuple(test), out_of_distribution=tuple(strange)))


@pytest.mark.parametrize("make", slow(tiny_base, tiny_encoder))
def test_a_trained_model_is_measured_on_any_base(tmp_path: Path, make: Any) -> None:
    base = make(tmp_path / "base")
    found = trained(base, tmp_path)
    (row,) = rows(evaluate(ALL), tiny_run(base, tmp_path / "run", tiny_pairs(64), [found])).values()
    report = RewardModelReport.model_validate(row)
    assert report.n == 32
    assert report.accuracy is not None
    assert report.accuracy > 0.8
    assert 0 < row["latency"] < 10
    assert row["metrics"]["consistency_space_at_end"] == 1.0  # the tokenizer knows words alone
    assert row["metrics"]["speed_pairs_per_second"] > 1
    assert 0.3 < row["metrics"]["pac_bayes_lower_bound"] < row["metrics"]["certificate_lower_bound"]
    assert "out_of_distribution" not in row


def test_every_reward_model_is_measured_on_its_own_and_out_of_distribution(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    both = [trained(base, tmp_path, "plain"), trained(base, tmp_path, "other", pooling="last_token")]
    run = held_out(tiny_run(base, tmp_path / "run", finished=both), tiny_pairs(20, seed=2), tiny_pairs(10, seed=3))
    found = rows(evaluate(), run)
    assert list(found) == ["plain", "other"]
    assert found["plain"]["ece"] != found["other"]["ece"]
    assert [row["out_of_distribution"]["n"] for row in found.values()] == [10, 10]


@pytest.mark.slow
def test_the_order_of_people_decides_what_is_right(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    run = tiny_run(base, tmp_path / "run", finished=[trained(base, tmp_path)])
    turned = [replace(group, ranks=(1, 0)) for group in run.data.test]
    forth, back = rows(evaluate(), run)["reward"], rows(evaluate(), held_out(run, turned))["reward"]
    assert forth["accuracy"] + back["accuracy"] == pytest.approx(1.0)


def test_without_a_reward_model_or_a_pair_there_is_nothing_to_measure(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    with pytest.raises(RunError, match="evaluate_reward: there is no reward model to measure"):
        evaluate().run(tiny_run(base, tmp_path / "run"))
    run = tiny_run(base, tmp_path / "later", finished=[trained(base, tmp_path)])
    with pytest.raises(RunError, match="no held-out pair is strictly ordered"):
        evaluate().run(held_out(run, [Group("how", ("ant", "bee"), (0, 0))]))


def test_responses_that_only_some_models_can_read_are_counted_by_model() -> None:
    one, other = Measured({}, {"held out, too long": 2}), Measured({}, {"held out, too long": 3})
    assert _left_out({"a": one, "b": one}) == {"held out, too long": 2}
    assert _left_out({"a": one, "b": other}) == {"held out, too long, by a": 2, "held out, too long, by b": 3}
