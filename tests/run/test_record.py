"""A run is read from its folder while another process writes it, and after it ended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any

import pytest
from marks import slow

from rlhf_plugins import Base, RunError, component, open_run
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.registry.registry import Registry
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.run.files.lock import locked
from rlhf_plugins.run.files.record import RunRecord
from rlhf_plugins.run.run import run

WRITER = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
stage = folder / "02-ppo"
def add(file, text):
    with file.open("a") as stream:
        stream.write(text)
    time.sleep(0.03)
stage.mkdir()
for step in range(1, 21):
    line = json.dumps({"stage": "ppo", "step": step, "loss": 1 / step})
    add(folder / "metrics.jsonl", line[:9])  # a torn line for a moment
    add(folder / "metrics.jsonl", line[9:] + "\\n")
    add(stage / "samples.jsonl", json.dumps({"step": step, "response": "nan", "kl": "nan"}) + "\\n")
add(stage / "alarms.jsonl", '{"step": 20, "message": "KL"}\\n{"step": 21, "mess')
(folder / "draft").write_text((folder / "metrics.jsonl").read_text())
os.replace(folder / "draft", folder / "metrics.jsonl")
time.sleep(0.1)
(folder / "draft").write_text(json.dumps({"status": sys.argv[2]}))
os.replace(folder / "draft", folder / "status.json")
"""


@pytest.fixture
def running(tmp_path: Path) -> RunRecord:
    RunFolder(tmp_path / "run").start({"stages": []}, {"status": "running", "stage": "ppo"})
    return open_run(tmp_path / "run")


@pytest.fixture
def finished(write: Callable[..., Path], registry: Registry) -> RunRecord:
    recipe = "base: sandbox\ndata: rows\noutput_dir: out\nstages: [{stage: make, name: first}, talk]\n"
    return open_run(run(load_recipe(write(recipe), registry=registry), say=lambda _: None).folder)


def put(record: RunRecord, name: str, *lines: Any) -> None:
    file = record.folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("end", ["finished", *slow("failed")])
def test_a_reader_follows_a_run_that_another_process_writes(end: str, running: RunRecord) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(running.folder), end]) as writer:
        rows = list(running.tail(poll=0.01, patience=60))
    assert writer.returncode == 0
    metrics = [row for kind, row in rows if kind == "metrics"]
    assert metrics == [{"stage": "ppo", "step": step, "loss": 1 / step} for step in range(1, 21)]
    samples = [row for kind, row in rows if kind == "samples"]
    assert [row["step"] for row in samples] == list(range(1, 21))
    assert [row for kind, row in rows if kind == "alarms"] == [{"stage": "ppo", "step": 20, "message": "KL"}]
    assert running.status == end


def test_a_reader_may_begin_before_any_file_is_there(running: RunRecord) -> None:
    assert [*running.metrics(), *running.samples(), *running.alarms()] == []
    assert list(running.tail(poll=0.01, patience=0.05)) == []
    assert (running.status, running.stage, running.stages()) == ("running", "ppo", [])


def test_a_number_that_is_not_finite_is_one_and_a_response_stays_text(running: RunRecord) -> None:
    put(running, "02-ppo/samples.jsonl", {"step": 1, "response": "nan", "kl": "inf", "gold": None})
    put(running, "metrics.jsonl", {"stage": "ppo", "step": 1, "loss": None})
    (sample,), (logged,) = running.samples("ppo"), running.metrics()
    assert (sample["response"], sample["kl"]) == ("nan", float("inf"))
    assert isnan(sample["gold"])
    assert isnan(logged["loss"])


def test_a_file_that_is_replaced_while_it_is_read_is_read_whole(
    running: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(running, "metrics.jsonl", {"stage": "a", "step": 1})
    put(running, "draft", *({"stage": "a", "step": step} for step in (2, 3)))
    opened = Path.open

    def replaced(file: Path, *given: Any, **named: Any) -> Any:
        stream = opened(file, *given, **named)
        if file.name == "metrics.jsonl" and (file.parent / "draft").exists():
            (file.parent / "draft").replace(file)
        return stream

    monkeypatch.setattr(Path, "open", replaced)
    assert [row["step"] for _, row in running.tail(poll=0.01, patience=0.1)] == [1, 2, 3]


def test_a_torn_line_within_a_file_is_left_out(running: RunRecord) -> None:
    put(running, "metrics.jsonl", '{"stage": "a", "st', {"stage": "a", "step": 1}, {"stage": "a", "step": 2, "x": 1})
    assert list(running.metrics()) == [{"stage": "a", "step": 2, "x": 1}]


def test_rows_of_a_nested_stage_are_found_by_its_whole_name(running: RunRecord) -> None:
    put(running, "03-improve/r2.dpo/samples.jsonl", {"step": 4, "response": "hi"})
    assert list(running.samples("improve/r2.dpo")) == [{"stage": "improve/r2.dpo", "step": 4, "response": "hi"}]


def test_the_curves_of_a_running_stage_are_what_it_logged(running: RunRecord) -> None:
    put(running, "metrics.jsonl", *({"stage": "a", "step": step, "loss": 3 - step} for step in (1, 2)))
    assert running.curves("a")["loss"].points == [(1, 2), (2, 1)]


def test_a_finished_run_shows_its_recipe_results_and_curves(finished: RunRecord) -> None:
    assert (finished.status, finished.message) == ("finished", "")
    assert finished.recipe["base"] == "sandbox"
    assert [result.name for result in finished.finished] == ["first", "talk"]
    assert list(finished.metrics("talk")) == [{"stage": "talk", "step": s, "loss": v} for s, v in ((1, 2.0), (2, 1.0))]
    assert finished.report.status == "finished"
    assert len(list(finished.tail())) == 4


def test_a_run_says_what_it_was_made_with_and_what_memory_its_process_has(finished: RunRecord, tmp_path: Path) -> None:
    made = finished.made_with
    assert made["seed"] == str(finished.recipe["seed"])
    assert made["rows.digest"] == RunFolder(finished.folder).status()["data"]["digest"]
    assert {"versions.torch", "hardware.cpu", "rows.train"} <= made.keys()
    assert (finished.memory, finished.steps) == (None, None)
    with locked(finished.folder):
        assert 2**20 < (finished.memory or 0) < 2**40


def test_the_rows_of_a_run_are_read_again_as_it_read_them(tmp_path: Path) -> None:
    rows = {"format": "sandbox", "writer": "sloppy", "prompts": 3, "test_prompts": 2}
    RunFolder(tmp_path / "run").start(
        {"base": "sandbox", "data": rows, "seed": 5, "stages": ["reward_model"]}, {"status": "running"}
    )
    read = open_run(tmp_path / "run").data()
    options = {name: value for name, value in rows.items() if name != "format"}
    known = component("data_format", "sandbox", **options).load(Base("sandbox"), 5)
    assert (read.train, read.test) == (known.train, known.test)


def test_an_unknown_stage_is_refused_with_the_nearest(finished: RunRecord) -> None:
    with pytest.raises(RunError, match=r"no stage 'tlk' \(did you mean talk\? known: first, talk\)"):
        finished.metrics("tlk")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run: it has no recipe"):
        open_run(tmp_path, wait=0.05)
