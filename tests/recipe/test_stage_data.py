"""A stage trains on the rows that an earlier stage of its run handed on, and the check knows the order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import RecipeError, RunError, check_recipe, open_run, run_recipe

WRITER = """
from dataclasses import dataclass, replace
from rlhf_plugins import Data, Run, Stage, StageResult, hookimpl

@dataclass(frozen=True)
class Flip(Stage, makes={"data"}, writes={"ranks"}):
    name: str = "flip"

    def run(self, run: Run) -> StageResult:
        train = tuple(replace(g, ranks=g.ranks[::-1]) for g in run.data.train if g.ranks)[:6]
        return StageResult(data=Data(train, prompts=run.data.prompts))

@hookimpl
def register_stage():
    return {"flip": Flip}
"""
RECIPE: dict[str, Any] = {
    "base": "sandbox",
    "plugins": ["./flip.py"],
    "data": {"format": "sandbox", "prompts": 16, "test_prompts": 8},
    "stages": [
        {"stage": "flip"},
        {
            "stage": "reward_model",
            "data": {"format": "stage", "stage": "flip"},
            "train_layers": 0,
            "trainer": {"max_steps": 1},
        },
    ],
    "adapter": "none",
    "output_dir": "out",
}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    Path("flip.py").write_text(WRITER)

    def made(**second: Any) -> dict[str, Any]:
        return {**RECIPE, "stages": [RECIPE["stages"][0], {**RECIPE["stages"][1], **second}]}

    return made


def test_a_stage_trains_on_what_an_earlier_one_wrote(recipe: Callable[..., dict[str, Any]]) -> None:
    steps = [{"use": "diverse", "share": 0.5, "quality": 0.0}]
    data = {"format": "prepared", "rows": {"format": "stage", "stage": "flip"}, "steps": steps}
    run_recipe(recipe(data=data), say=lambda _: None)
    flip, reward = open_run("out").finished
    assert flip.data is not None
    assert len(flip.data.train) == 6
    assert "reward_model" in reward.rewards
    assert reward.report.left_out["its data, diverse: not chosen"] == 3
    assert reward.report.own_data == {"train": 3, "test": 0}
    run_recipe(recipe(data=data), resume=True, say=lambda _: None)


def test_a_stage_that_cannot_measure_what_an_earlier_one_wrote_is_refused_when_it_is_there(
    recipe: Callable[..., dict[str, Any]],
) -> None:
    words = recipe()
    words["stages"].append({"stage": "evaluate_reward", "data": {"format": "stage", "stage": "flip"}})
    with pytest.raises(RunError, match="stage evaluate_reward: no held-out pair is"):
        run_recipe(words, say=lambda _: None)
    assert [result.name for result in open_run("out").finished] == ["flip", "reward_model"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"format": "stage", "stage": "filp"}, r"did you mean flip\?"),
        ({"format": "stage"}, "is required"),
        ({"format": "stag", "stage": "flip"}, r"did you mean stage\?"),
    ],
)
def test_a_wrong_source_is_one_line(recipe: Callable[..., dict[str, Any]], data: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        check_recipe(recipe(data=data))
    assert len(str(caught.value).splitlines()) == 1


def test_a_whole_recipe_cannot_read_what_a_stage_will_write(recipe: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(RecipeError, match="no stage runs before the recipe's data is read"):
        check_recipe({**recipe(), "data": {"format": "stage", "stage": "flip"}})


def test_the_check_knows_what_columns_a_stage_writes(recipe: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(RecipeError, match="bradley_terry_margin.* needs .*margin") as caught:
        check_recipe(recipe(loss="bradley_terry_margin"))
    assert len(str(caught.value).splitlines()) == 1
