"""A stage that a resume changes keeps its steps where no weight depends on the change, and loses none unasked."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from killing import kill_at
from marks import slow

from rlhf_plugins.data.digests import digest
from rlhf_plugins.errors import RunError
from rlhf_plugins.run.files.checkpoints import newest_step
from rlhf_plugins.run.run import run_recipe
from rlhf_plugins.testing import tiny_base

PAIRS = {
    "max_steps": 6,
    "learning_rate": 1e-2,
    "logging_steps": 4,
    "per_device_train_batch_size": 4,
    "disable_tqdm": True,
}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2}
ROLLOUTS = {
    **PAIRS,
    **EVALUATED,
    "num_iterations": 2,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
}
STAGES: dict[str, dict[str, Any]] = {
    "reward_model": {"stage": "reward_model", "trainer": {**PAIRS, **EVALUATED}},
    "preference": {"stage": "preference", "trainer": PAIRS},
    "online": {"stage": "online", "reward": {"use": "length", "most": 5}, "shaping": ["running"], "trainer": ROLLOUTS},
}


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(tiny_base(tmp_path / "base").path)


def go(stage: dict[str, Any], base: str, folder: Path, *overrides: str, resume: bool = False) -> None:
    data = {"format": "sandbox", "prompts": 24, "responses": 4, "pairs": 2}
    recipe = {"base": base, "adapter": {"r": 2}, "data": data, "checkpoint": {"every": "1 steps"}, "stages": [stage]}
    run_recipe({**recipe, "output_dir": str(folder)}, overrides, resume=resume, say=lambda _: None)


def killed(stage: dict[str, Any], base: str, folder: Path) -> None:
    """Ends the run in its fourth step."""
    with pytest.MonkeyPatch.context() as patch:
        kill_at(4, patch)
        with pytest.raises(RunError, match="Killed"):
            go(stage, base, folder)


def weights(folder: Path) -> dict[str, str]:
    found = {file.relative_to(folder).as_posix(): digest(file) for file in folder.rglob("*.safetensors")}
    return {name: own for name, own in found.items() if "checkpoint-" not in name}


@pytest.mark.parametrize("name", ["online", *slow("preference", "reward_model")])
def test_a_stage_that_logs_and_saves_otherwise_goes_on_and_learns_the_same(
    name: str, base: str, tmp_path: Path
) -> None:
    stage, whole, other = STAGES[name], tmp_path / "whole", tmp_path / "other"
    go(stage, base, whole)
    killed(stage, base, other)
    logs = ("logging_steps=1", "logging_first_step=true", "disable_tqdm=false")
    saves = ("save_strategy=steps", "save_steps=1", "save_total_limit=2")
    go(stage, base, other, *(f"stages.{name}.trainer.{option}" for option in logs + saves), resume=True)
    assert sorted(folder.name for folder in other.glob("*/checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]
    assert weights(other)
    assert weights(other) == weights(whole)
    logged = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    assert sorted({row["step"] for row in logged if "loss" in row.get("values", row)}) == [4, 5, 6]


def test_a_stage_that_would_learn_otherwise_keeps_its_checkpoints_until_they_are_deleted(
    base: str, tmp_path: Path
) -> None:
    stage, folder = STAGES["preference"], tmp_path / "run"
    killed(stage, base, folder)
    changed = "stages.preference.trainer.learning_rate=0.5"
    begun = folder / "01-preference"
    said = rf"{begun} has a checkpoint of step 3, and stages.0.trainer.learning_rate was 0.01 and is now 0.5, with"
    with pytest.raises(RunError, match=rf"{said} which the stage begins again: .* or delete {begun} first"):
        go(stage, base, folder, changed, resume=True)
    assert newest_step(begun) == 3
    shutil.rmtree(begun)
    go(stage, base, folder, changed, resume=True)
    with pytest.raises(RunError, match=rf"; resume it as .*, start a new run with base={folder}#preference$"):
        go(stage, base, folder, resume=True)
    go(stage, f"{folder}#preference", tmp_path / "further")


@pytest.mark.parametrize(
    ("given", "option"),
    [({"eval_strategy": "steps"}, "logging_steps"), ({**EVALUATED, "load_best_model_at_end": True}, "save_steps")],
)
def test_where_weights_hang_on_when_it_logs_or_saves_a_stage_begins_again(
    given: dict[str, Any], option: str, base: str, tmp_path: Path
) -> None:
    stage = {"stage": "preference", "trainer": {**PAIRS, "logging_steps": 2, **given}}
    killed(stage, base, tmp_path / "run")
    with pytest.raises(RunError, match=f"{option} was .* and is now 4, with which the stage begins again"):
        go(stage, base, tmp_path / "run", f"stages.preference.trainer.{option}=4", resume=True)


def test_checkpoints_of_parts_count_and_the_newest_is_the_last_written(tmp_path: Path) -> None:
    for where, step in (("checkpoints/000", 80), ("round-1/checkpoints/000", 40), ("checkpoints/001/draft", 90)):
        made = tmp_path / where / f"{step:08d}"
        made.mkdir(parents=True)
        (made / "checksums.json").touch()
        os.utime(made, (1000 - step, 1000 - step))
    assert newest_step(tmp_path) == 40
