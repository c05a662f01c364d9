"""Rows of a stage's own are asked as the recipe's are: whether the stage can run on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from marks import slow

from rlhf_plugins import Run, RunError, component, session
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.run.run import run
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

EVALUATE, REWARD = "stage evaluate: the data hold out no prompt", "stage evaluate_reward: no held-out pair is"
FEW = [("evaluate", EVALUATE), *slow(("evaluate_reward", REWARD))]
ALONE = {"prompt": "p", "chosen": "a", "rejected": "b"}


def recipe(tmp_path: Path, *stages: Any) -> dict[str, Any]:
    data = {"format": "sandbox", "prompts": 8, "test_prompts": 4}
    words = {"base": "sandbox", "output_dir": str(tmp_path / "out"), "data": data}
    return {**words, "stages": [{"stage": "reward_model", "trainer": {"max_steps": 1}}, *stages]}


@pytest.mark.parametrize(("stage", "message"), FEW)
def test_a_file_is_read_before_anything_is_trained(stage: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(json.dumps(ALONE))
    last = {"stage": stage, "data": {"format": "preference", "source": str(tmp_path / "own.jsonl")}}
    with pytest.raises(RunError, match=message):
        run(load_recipe(recipe(tmp_path, last)), say=lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def opened(tmp_path: Path) -> Run:
    base = tiny_base(tmp_path / "base")
    return session(base, tiny_run(base, tmp_path / "rows", tiny_pairs(8)).data, tmp_path / "run")


@pytest.mark.parametrize(("stage", "message"), FEW)
def test_rows_that_the_run_makes_are_asked_when_they_are_there(opened: Run, stage: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        opened.train(component("stage", stage), name=stage, data=Data((Group("p", ("a", "b"), (0, 1)),)))
