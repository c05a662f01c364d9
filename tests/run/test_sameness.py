"""What two runs left is compared file by file; only times, memory and caches may differ."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from rlhf_plugins import RunError
from rlhf_plugins.run.files.sameness import differences
from rlhf_plugins.run.resume_check import _Attempt, resume_check
from rlhf_plugins.testing import tiny_base

RECIPE = """\
base: base
adapter: {r: 2}
data: {format: preference, source: pairs.jsonl}
stages:
  - {stage: preference, trainer: {max_steps: 4, logging_steps: 1, per_device_train_batch_size: 4}}
"""


def left(folder: Path, seconds: float, loss: float, **files: str) -> Path:
    folder.mkdir()
    values = {"cost": {"seconds": seconds, "flops": 2}, "curves": [[1, loss]], "note": f"the {seconds} s of it"}
    (folder / "result.json").write_text(json.dumps(values))
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_times_are_no_difference(tmp_path: Path) -> None:
    one, two = left(tmp_path / "a", 1.5, 0.25, model="w"), left(tmp_path / "b", 3.0, 0.25, model="w")
    (two / "status.json").touch()
    (two / "reference.sqlite").touch()
    assert differences(one, two) == []


def test_numbers_and_files_are_differences(tmp_path: Path) -> None:
    one, two = left(tmp_path / "a", 1.0, 0.25, model="w", old=""), left(tmp_path / "b", 1.0, 0.5, model="v", new="")
    assert differences(one, two) == [
        "model differs",
        "new is there too",
        "old is missing",
        "result.json: curves.0.1 was 0.25 and is now 0.5",
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_recipe_is_killed_and_leaves_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_base(tmp_path / "base")
    rows = [{"prompt": f"p{i} ", "chosen": "ant", "rejected": "gas"} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RECIPE)
    found = resume_check("r.yaml", (), kills=1)
    assert found.differences == []


class Process:
    """One that has ended already, and leaves an empty folder."""

    def __init__(self, words: Sequence[str], code: int) -> None:
        Path(words[-1].removeprefix("output_dir=")).mkdir(exist_ok=True)
        self.returncode = code

    def poll(self) -> int:
        """Its exit code."""
        return self.returncode


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
@pytest.mark.parametrize(("code", "words"), [(-9, "ended with exit code -9"), (0, "ended before it was killed")])
def test_a_run_that_nobody_killed_is_no_check(code: int, words: str) -> None:
    with pytest.raises(RunError, match=words):
        resume_check("quickstart", (), kills=1, say=str, start=lambda given, _: Process(given, code))


def test_a_run_that_ends_before_it_is_killed_is_killed_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 s after its start; the first two are done before they are killed, and the third is killed in time."""
    monkeypatch.setattr(random.Random, "uniform", lambda _, low, high: high)
    limits: list[float | None] = []

    def run(start: Any, words: Sequence[str], folder: Path, after: float | None = None) -> Any:
        (folder / "run").mkdir(exist_ok=True)
        (folder / "run" / "status.json").write_text(json.dumps({"status": "running", "stage": "sft"}))
        limits.append(after)
        return _Attempt(-9 if after is not None and after < 30 else 0, begun=20, seconds=100)

    monkeypatch.setattr("rlhf_plugins.run.resume_check._run", run)
    assert resume_check("quickstart", (), kills=1, say=str).killed_in == ["sft"]
    assert limits == [None, 80, 40, 20, None]


class Reporting(Process):
    """One that has begun, or finished every stage and then writes its report until it is killed."""

    def __init__(self, words: Sequence[str], log: IO[bytes], code: int | None) -> None:
        place = Path(words[-1].removeprefix("output_dir="))
        place.mkdir(exist_ok=True)
        (place / "status.json").write_text(json.dumps({"status": "finished", "stage": None}))
        log.write(b"[1/1] sft: running")
        self.returncode = code  # type: ignore[assignment]

    def kill(self) -> None:
        """As SIGKILL."""
        self.returncode = -9

    def wait(self) -> None:
        """It has ended."""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_kill_after_the_last_stage_fell_in_the_report() -> None:
    codes, said = iter((0, None, 0)), list[str]()
    found = resume_check("quickstart", (), 1, say=said.append, start=lambda *given: Reporting(*given, next(codes)))
    assert found.killed_in == ["the report"]
    assert said[-1].startswith("kill 1 in the report, after ")


def test_several_trainings_are_refused_with_the_override_to_add() -> None:
    with pytest.raises(RunError, match=r"is several trainings: add seeds=\[\] sweep={}"):
        resume_check("quickstart", ("seeds=[0, 1]",), kills=1)
