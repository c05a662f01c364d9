"""How long an algorithm takes is what a trial measured, times how much more of it there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import Base, Data, component, open_run, run_recipe
from rlhf_plugins.run.selection.timing import Rate, Tick, rate, timed
from rlhf_plugins.testing import tiny_base

DATA = {"format": "sandbox", "writer": "sloppy", "prompts": 80, "test_prompts": 4}
TRAINER = {"per_device_train_batch_size": 4, "num_train_epochs": 1}
DPO = {"stage": "preference", "name": "dpo", "trainer": TRAINER}
SAMPLED = {"num_generations": 4, "max_completion_length": 4}
GOLD = {"stage": "online", "name": "gold", "reward": "gold", "trainer": {**TRAINER, **SAMPLED}}


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    return {"base": tiny_base(tmp_path / "base").path, "adapter": {"r": 2}, "data": DATA}


def rows() -> Data:
    data = {key: value for key, value in DATA.items() if key != "format"}
    found: Data = component("data_format", DATA["format"], **data).load(Base(""), 0)
    return found


def test_the_rate_leaves_the_first_step_out_and_has_what_is_computed_once_apart() -> None:
    """A step takes 100 FLOPs in 2 s; of the first one's 500, 400 were of all rows, which take 8 s at that speed."""
    found = rate([Tick(1, 30.0, 500.0), Tick(2, 32.5, 600.0), Tick(3, 34.0, 700.0)])
    assert found == Rate(2.0, 8.0)
    assert found.of_all(10, 5.0) == 60.0  # 10 steps, and 5 times as many rows
    assert rate([Tick(1, 0.0, 500.0), Tick(2, 9.0, 600.0)]) is None


def test_a_first_step_of_short_rows_is_no_time_to_take_off() -> None:
    assert rate([Tick(1, 0.0, 50.0), Tick(2, 1.0, 150.0), Tick(3, 2.0, 250.0)]) == Rate(1.0, 0.0)


def test_what_was_timed_for_another_algorithm_is_not_trained_again(
    recipe: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    stages = {"then": [DPO, {**GOLD, "from": "dpo"}], "alone": [DPO], "short": [{**DPO, "trainer": {"max_steps": 2}}]}
    found = timed({name: {**recipe, "stages": own} for name, own in stages.items()}, rows(), 0.01)
    said = capfd.readouterr().err
    assert [said.count(f"timing {name} for") for name in ("dpo", "gold")] == [2, 1]  # `short` has other words
    alone, then = found["alone"].seconds, found["then"].seconds
    assert alone is not None
    assert then is not None
    assert 0 < alone < then
    assert (found["short"].seconds, found["short"].why) == (None, "seconds of dpo: its trial made fewer than 3 steps")


def test_a_training_that_fails_has_no_seconds_and_says_why(recipe: dict[str, Any]) -> None:
    few = {**GOLD, "trainer": {**SAMPLED, "per_device_train_batch_size": 512}}
    found = timed({"gold": {**recipe, "stages": [few]}}, rows(), 0.01)["gold"]
    assert found.seconds is None
    assert found.why.startswith("seconds of gold: ")


@pytest.mark.slow
def test_the_seconds_of_a_trial_are_those_of_the_run(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Within a factor of 2: the machine has other work too, and a run loads and saves beside its steps."""
    trainer = {"per_device_train_batch_size": 8, "num_train_epochs": 4}
    one = {**recipe, "base": "sandbox", "stages": [{**DPO, "trainer": trainer}]}
    forecast = timed({"dpo": one}, rows(), 3.0)["dpo"].seconds
    (result,) = open_run(run_recipe({**one, "output_dir": str(tmp_path / "run")}, say=str).folder).finished
    assert forecast is not None
    assert 0.5 < forecast / result.cost.seconds < 2
