"""While a run goes on its page shows where it is and loads itself again; when it has ended the page stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_plugins import open_run
from rlhf_plugins.contract.run import Cost, StageResult
from rlhf_plugins.contract.workload import Course
from rlhf_plugins.lifecycle import gpu
from rlhf_plugins.lifecycle import report as hooks
from rlhf_plugins.run.files import reporting
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.run.files.lock import locked
from rlhf_plugins.run.time_left import after, left

HARDWARE = {"cpu": "a", "cores": 1, "memory_bytes": 1, "platform": "b"}
STATUS = {"started": "2025-06-01T09:30:00Z", "versions": {}, "hardware": HARDWARE, "plugins": [], "status": "running"}
AGAIN = '<meta http-equiv="refresh"'


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run in its second stage."""
    run = RunFolder(tmp_path / "run")
    stages = [{"stage": "sft", "name": "sft"}, {"stage": "preference", "name": "dpo"}]
    at: dict[str, Any] = {"stage": "dpo", "steps": 40, "left": 65.0}
    run.start({"stages": stages}, STATUS | {"data": {"train": 2, "test": 1, "dropped": {}}} | at)
    (run.path / "metrics.jsonl").write_text(
        "".join(json.dumps({"stage": "dpo", "step": s, "loss": 1.0}) + "\n" for s in (1, 2))
    )
    return run


def test_the_page_of_a_run_that_goes_on_loads_itself_again(run: RunFolder) -> None:
    with locked(run.path):
        made = reporting.build(run)
        reporting.show(run)
    where = "stage dpo, 2 of 2, step 2 of 40, about 1 min 5 s of the run were left when the stage began"
    assert (made.status, made.progress) == ("running", where)
    assert made.stages[-1].curves["loss"].points == [(1, 1.0), (2, 1.0)]
    page = (run.path / "report.html").read_text()
    assert AGAIN in page
    assert where in page
    assert not (run.path / "report.json").exists()


def test_a_process_that_is_gone_leaves_an_interrupted_run(run: RunFolder) -> None:
    reporting.write(run, made := reporting.build(run))
    assert made.status == "interrupted"
    assert AGAIN not in (run.path / "report.html").read_text()


def test_pages_are_written_now_and_then(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shown = [0.0], list[float]()
    monkeypatch.setattr(hooks.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(reporting, "show", lambda folder: shown.append(clock[0]))
    hooks.run_started(run.path)
    for clock[0] in (1.0, 10.0, 11.0, 21.0):
        hooks.step_logged(run.path)
    assert shown == [10.0, 21.0]


def test_the_memory_of_a_gpu_is_noted_now_and_then_and_in_no_curve(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    gpu.step_logged(run.path)
    assert open_run(run.path).gpu_memory is None  # there is none here
    for name in ("is_available", "memory_reserved", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 7 + int(clock[0]))
    for clock[0], noted in ((1.0, None), (2.0, 9), (3.0, 9)):
        gpu.step_logged(run.path)
        assert open_run(run.path).gpu_memory == (noted and {"reserved": noted, "peak": noted})
    assert open_run(run.path).curves("dpo").keys() == {"loss"}
    gpu.run_finished(run.path)
    assert open_run(run.path).gpu_memory is None


def test_what_is_left_takes_as_long_a_sequence_as_what_was_done() -> None:
    courses = {"sft": Course(10, 100, ""), "dpo": Course(10, 200, ""), "judge": Course(None, 50, "")}
    sft = StageResult(name="sft", cost=Cost(seconds=20.0))
    assert left(courses, [sft]) == 50.0  # 250 sequences of 0.2 s
    assert left(courses, []) is None
    assert left({**courses, "own": None}, [sft]) is None


def test_what_comes_after_a_stage_takes_as_long_a_sequence_as_it_and_what_was_done() -> None:
    courses = {"sft": Course(10, 100, ""), "dpo": Course(10, 200, ""), "judge": Course(None, 50, "")}
    sft = StageResult(name="sft", cost=Cost(seconds=20.0))
    assert after(courses, [sft], "dpo")(0.5, 30.0) == 12.5  # 50 sequences, after 200 in 50 s
    assert after(courses, [], "sft")(0.1, 5.0) == 125.0  # 250 of 0.5 s
    assert after(courses, [sft, replace(sft, name="dpo")], "judge")(0.5, 5.0) == 0.0
    assert after({**courses, "own": None}, [sft], "dpo")(0.5, 30.0) is None
    assert after({"own": None, **courses}, [], "own")(0.5, 30.0) is None
