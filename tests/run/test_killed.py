"""A run that is ended by SIGKILL inside its trainings leaves what an undisturbed one leaves, its metrics included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from warm import Warm

from rlhf_plugins.testing import tiny_base

RECIPE = """\
base: base
adapter: {r: 2}
data: {format: preference, source: pairs.jsonl}
checkpoint: {every: 1 steps}
stages:
  - {stage: reward_model, trainer: {max_steps: 3, logging_steps: 1, per_device_train_batch_size: 4}}
  - stage: online
    trainer: {max_steps: 4, logging_steps: 1, per_device_train_batch_size: 8, num_generations: 4, num_iterations: 2}
"""
RESAMPLES = """\
stage: online
    advantage: grpo
    reward: {use: length, most: 5}
    shaping: []
    kl: none
    equal_groups: resample"""
WARMS_UP = "stage: online\n    value: {start: reward, warmup_steps: 3}"
KILLS_ITSELF = """\
import os, signal, sys, transformers
own, left = transformers.Trainer.training_step, iter(range(int(sys.argv[1])))
def training_step(*given):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return own(*given)
transformers.Trainer.training_step = training_step
from rlhf_plugins import run_recipe
run_recipe("r.yaml", resume=len(sys.argv) > 2)
"""
LOSES_ITS_WORKER = """\
import psutil, transformers
from rlhf_plugins import run_recipe
own = transformers.Trainer.training_step
def training_step(*given):
    for worker in psutil.Process().children():
        worker.kill()
    return own(*given)
transformers.Trainer.training_step = training_step
options = "stages.reward_model.trainer."
run_recipe("r.yaml", [options + "dataloader_num_workers=1", options + "max_steps=30"])
"""
ZERO = """\
import os, pathlib, signal
calls, killed = [], pathlib.Path("killed")
def score(prompts, completions, **columns):
    calls.append(None)
    if len(calls) == 2 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [0.0] * len(completions)
"""
TIMED = {"result.json", "status.json", "report.json", "report.html", "recipe.yaml"}


def left_by(folder: Path) -> dict[str, Any]:
    """All files of a run, those with times in them without these."""
    found: dict[str, Any] = {}
    for file in (file for file in folder.rglob("*") if file.is_file() and not file.name.endswith(".sqlite")):
        name = file.relative_to(folder).as_posix()
        if file.name == "result.json":
            values = json.loads(file.read_text())
            found[name] = {**values, "cost": {**values["cost"], "seconds": 0, "peak_bytes": 0}}
        else:
            found[name] = None if file.name in TIMED else file.read_bytes()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One with the recipe, its base and its rows."""
    rows = [{"prompt": f"p{i} ", "chosen": "ant", "rejected": "gas"} for i in range(20)]
    tiny_base(tmp_path / "base")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("online", ["stage: online", RESAMPLES, WARMS_UP], ids=["ppo", "resample", "warm-up"])
def test_killed_runs_leave_what_an_undisturbed_one_leaves(python: Warm, folder: Path, online: str) -> None:
    (folder / "r.yaml").write_text(RECIPE.replace("stage: online", online))

    def code(steps: str, *more: str) -> int:
        return python("-c", KILLS_ITSELF, steps, *more, cwd=folder).returncode

    assert code("99") == 0
    whole = left_by((folder / "runs").rename(folder / "whole"))
    assert [code("2"), code("4", "again"), code("1", "again")] == [-9, -9, 0]
    assert left_by(folder / "runs") == whole


@pytest.mark.slow
def test_skipped_updates_before_a_kill_are_counted(python: Warm, folder: Path) -> None:
    """Two of the four precede it: those after it alone would be two of two."""
    (folder / "zero.py").write_text(ZERO)
    online = "  - {stage: online, advantage: grpo, shaping: [], reward: {use: python, path: 'zero.py:score'},\n"
    start, _, rest = RECIPE.partition("  - {stage: reward_model")
    (folder / "r.yaml").write_text(start + online + rest.rpartition("stage: online\n")[2].rstrip() + "}\n")
    assert python("-c", KILLS_ITSELF, "9", cwd=folder).returncode == -9
    assert python("-c", KILLS_ITSELF, "9", "again", cwd=folder).returncode == 0
    (result,) = (folder / "runs").rglob("result.json")
    assert "4 of 4 updates were skipped" in " ".join(json.loads(result.read_text())["report"]["notes"])


@pytest.mark.slow
def test_a_lost_loader_worker_fails_the_stage_in_a_sentence(python: Warm, folder: Path) -> None:
    done = python("-c", LOSES_ITS_WORKER, cwd=folder)
    assert done.returncode
    assert "stage reward_model failed: RuntimeError: DataLoader worker" in done.stderr
