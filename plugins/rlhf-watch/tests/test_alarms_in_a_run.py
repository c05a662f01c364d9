"""Monitors in real trainings: clean runs are measured, thresholds fitted to them, and another run alarms."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rlhf_watch.alarms.calibration import calibrate
from rlhf_watch.commands import register_commands
from transformers import TrainerCallback
from transformers.integrations import integration_utils
from typer.testing import CliRunner

from rlhf_plugins import DataError, RunError, open_run, run_recipe
from rlhf_plugins.testing import tiny_base

TRAINER = {"max_steps": 5, "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 4}


def train(folder: Path, name: str, *monitors: Any, seed: int = 1) -> Path:
    stage = {"stage": "online", "reward": "gold", "trainer": TRAINER, "monitors": list(monitors)}
    top = {"base": str(folder / "base"), "data": {"format": "sandbox", "prompts": 64}, "seed": seed}
    run_recipe({**top, "stages": [stage], "output_dir": str(folder / "runs" / name)})
    return folder / "runs" / name


GAP = {"use": "reward_gap", "first": 16}
LENGTH = {"use": "length_drift", "warm_up": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clean runs of a tiny model."""
    found = tmp_path_factory.mktemp("clean")
    tiny_base(found / "base")
    for seed in (1, 2, 3):
        train(found, f"clean{seed}", GAP, LENGTH, seed=seed)
    return found


@pytest.mark.slow
def test_clean_runs_are_calibrated_and_another_run_alarms(folder: Path) -> None:
    record = open_run(folder / "runs" / "clean1")
    logged = [row for row in record.metrics() if "watch/length_drift" in row]
    assert len(logged) == 5
    assert list(record.alarms()) == []
    watch = register_commands()["watch"]
    file = folder / "thresholds.json"
    done = CliRunner().invoke(watch, ["calibrate", str(folder / "runs"), "--rate", "0.5", "--out", str(file)])
    assert "3 clean runs of at least 5 rollouts; about 50.0% of such runs alarm" in done.output
    file.write_text(re.sub('"threshold": [^,]*', '"threshold": -1', file.read_text()))  # below any statistic
    again = train(folder, "again", {**LENGTH, "thresholds": str(file)}, {**GAP, "thresholds": str(file)})
    alarms = list(open_run(again).alarms())
    assert {row["monitor"] for row in alarms} == {"length_drift", "reward_gap"}
    assert all(row["false_alarm_rate"] == 0.5 for row in alarms)


class Tracker(TrainerCallback):
    """Notes what a tracker gets: the stage's folder, step, name, value."""

    seen: ClassVar[dict[tuple[str, int, str], float]] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        stage = Path(args.output_dir).name.partition("-")[2]
        self.seen.update({(stage, state.global_step, name): value for name, value in logs.items()})


@pytest.mark.slow
def test_trackers_get_the_numbers_of_the_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stages and of monitors, at every step."""
    (tmp_path / "clearml.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "clearml", Tracker)
    few = {"max_steps": 3, "logging_steps": 2, "per_device_train_batch_size": 4}
    stages = [{"stage": name, "trainer": few} for name in ("sft", "preference", "reward_model")]
    stages.append({"stage": "online", "reward": "gold", "trainer": TRAINER, "monitors": [GAP, LENGTH]})
    top = {"base": str(folder / "base"), "data": {"format": "sandbox", "prompts": 64}, "report_to": "clearml"}
    run_recipe({**top, "stages": stages, "output_dir": str(tmp_path / "run")})
    rows = [(row.pop("stage"), row.pop("step"), row) for row in open_run(tmp_path / "run").metrics()]
    kept = {(stage, step, name): value for stage, step, row in rows for name, value in row.items()}
    assert {stage for stage, _, _ in kept} == {"sft", "preference", "reward_model", "online"}
    names = {name for _, _, name in kept}
    assert names >= {"loss", "rewards/margins", "reward", "watch/reward_gap", "watch/length_drift"}
    assert kept == {at: value for at, value in Tracker.seen.items() if at[2] in names}


@pytest.mark.slow
def test_runs_that_cannot_be_calibrated_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="2 clean runs can promise a rate of 0.333, not 0.01"):
        calibrate([folder / "runs" / "clean1", folder / "runs" / "clean2"], 0.01)
    other = Path(shutil.copytree(folder / "runs" / "clean2", folder / "other"))
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(recipe.replace("warm_up: 2", "warm_up: 3"))
    with pytest.raises(RunError, match="other options"):
        calibrate([folder / "runs" / "clean1", other], 0.5)
    with pytest.raises(RunError, match="no run"):
        calibrate([folder / "base"], 0.5)
