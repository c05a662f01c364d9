"""`report_to` at the top of a recipe reaches every stage; a tracker gets a run a stage, named by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import check_recipe, open_run, session
from rlhf_plugins.errors import RecipeError
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

WANDB = """
import json, os
run, config = None, {}

class _Run:
    summary: dict = {}
    def _label(self, **_): pass

class _Config(dict):
    def update(self, *_, **__): pass

config = _Config()

def _write(**what):
    with open(os.environ["STAND_IN"], "a") as file:
        file.write(json.dumps(what) + "\\n")

def init(project=None, name=None, **_):
    global run
    run = _Run()
    _write(event="init", name=name)

def log(values, **_):
    _write(event="log", names=sorted(values))

def finish():
    global run
    run = None
    _write(event="finish")

def define_metric(*_, **__): pass
"""
DPO = {"use": "preference", "trainer": {"max_steps": 2, "logging_steps": 1, "disable_tqdm": True}}


def recipe(**more: Any) -> dict[str, Any]:
    stages = [{"stage": "sft"}, {"stage": "preference", "name": "dpo", "trainer": {"report_to": "none"}}, "evaluate"]
    return {"base": "sandbox", "data": "sandbox", "stages": stages, **more}


ALONE = """
import sys
from pathlib import Path
from rlhf_plugins import check_recipe, session
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

stages = [{"stage": "sft"}, {"stage": "preference", "name": "dpo", "trainer": {"report_to": "none"}}, "evaluate"]
checked = check_recipe({"base": "sandbox", "data": "sandbox", "stages": stages, "report_to": ["wandb"]})["stages"]
assert [stage["trainer"]["report_to"] for stage in checked[:2]] == [["wandb"], "none"], checked

folder = Path(sys.argv[1])
base = tiny_base(folder / "base")
run = session(base, tiny_run(base, folder / "rows", tiny_pairs(8)).data, folder / "mine")
trainer = {"max_steps": 2, "logging_steps": 1, "disable_tqdm": True, "report_to": ["wandb"]}
for name in ("one", "two"):
    run.train({"use": "preference", "trainer": trainer}, name=name)
"""


@pytest.mark.slow
def test_each_stage_is_a_run_of_a_tracker_with_its_numbers(tmp_path: Path) -> None:
    """In a process of its own: transformers and TRL remember for good that they saw the stand-in."""
    package = tmp_path / "stand_in/wandb"
    (package / "sdk/lib").mkdir(parents=True)
    for name, text in {
        "__init__.py": WANDB,
        "sdk/__init__.py": "",
        "sdk/lib/__init__.py": "",
        "sdk/lib/config_util.py": "class ConfigError(Exception): pass\n",
    }.items():
        (package / name).write_text(text)
    found = os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": found, "STAND_IN": str(tmp_path / "events")}
    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    order = [event["event"] for event in events if event["event"] != "log"]
    assert order == ["init", "finish", "init", "finish"]
    assert [event["name"] for event in events if event["event"] == "init"] == ["mine/one", "mine/two"]
    logged = {name for event in events if event["event"] == "log" for name in event["names"]}
    assert {"train/loss", "train/rewards/margins"} <= logged


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="it is installed")
def test_a_tracker_that_is_not_there_is_one_fault() -> None:
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe(report_to="mlflow"))
    missing = "recipe: report_to: mlflow is not installed: `pip install mlflow`, or write none"
    assert list(map(str, caught.value.faults)) == [missing]


def test_a_recipe_without_trackers_names_none() -> None:
    assert "report_to" not in check_recipe(recipe())["stages"][0]["trainer"]


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs tensorboard")
def test_tensorboard_gets_the_numbers_of_a_stage_in_its_folder(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    run = session(base, tiny_run(base, tmp_path / "rows", tiny_pairs(8)).data, tmp_path / "mine")
    run.train({**DPO, "trainer": {**DPO["trainer"], "report_to": ["tensorboard"]}}, name="one")
    (file,) = (tmp_path / "mine").rglob("events.out.tfevents.*")
    events: Any = import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(str(file))
    events.Reload()
    rows: dict[int, dict[str, float]] = {}
    for row in open_run(tmp_path / "mine").metrics("one"):  # the summary at the end is a row of its own
        rows.setdefault(row["step"], {}).update(row)
    assert [*rows] == [1, 2]
    for name in rows[1].keys() - {"stage", "step"}:
        found = [(one.step, one.value) for one in events.Scalars(f"train/{name}")]
        assert found == [(step, pytest.approx(row[name], rel=1e-6)) for step, row in rows.items()]
