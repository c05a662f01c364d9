"""The check of a machine with a GPU runs on a CPU too, so that it is ready where there is one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from warm import Warm

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPT = str(FOLDER / "gpu_check.py")


def rehearsed(python: Warm, folder: Path, run: int, *only: str) -> list[dict[str, Any]]:
    """The points of a run at its smallest sizes."""
    sections = ("--only", *only) if only else ()
    words = ("--run", str(run), "--device", "cpu", "--tiny", "--out", str(folder), *sections)
    done = python(SCRIPT, *words)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads((folder / f"gpu_run_{run}.json").read_text())["points"]
    return found


@pytest.mark.slow
def test_a_rehearsal_compares_every_layout_with_separate_rows(python: Warm, tmp_path: Path) -> None:
    points = rehearsed(python, tmp_path, 1, "layouts")
    name = "gradients against own separate rows"
    errors = {p["point"]: p[name] for p in points if name in p}
    assert len(errors) == 14  # three layouts in each of four precisions, and two of a model with sliding windows
    assert max(errors.values()) < 1e-4


@pytest.mark.slow
def test_a_rehearsal_times_both_sides_at_equal_losses(python: Warm, tmp_path: Path) -> None:
    points = rehearsed(python, tmp_path, 2, "machine", "beside_trl")
    assert [point["section"] for point in points] == ["machine", "beside_trl", "beside_trl"]
    assert all(point["ratio"] > 0 for point in points[1:])


@pytest.mark.slow
def test_a_rehearsal_times_the_layouts_on_the_same_groups(python: Warm, tmp_path: Path) -> None:
    chosen, *points = rehearsed(python, tmp_path, 2, "layout_speed")
    assert chosen["layout"] == "packed"
    tokens = {point["point"]: point["tokens"] for point in points}
    assert [tokens[f"16 x (384 + 2 x 128), {each}"] for each in ("rows", "packed", "separate")] == [640, 640, 1024]
    assert tokens["ragged, packed"] < tokens["ragged, rows"]
    assert all(point["seconds"] > 0 for point in points)


@pytest.mark.slow
@pytest.mark.parametrize("run", [1, 2, 3])
def test_every_section_runs(python: Warm, tmp_path: Path, run: int) -> None:
    assert not [point for point in rehearsed(python, tmp_path, run) if "skipped" in point]


def test_a_failure_and_a_deadline_are_points_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from gpu_lab import Lab

    lab = Lab("cpu", True, tmp_path, tmp_path / "points.json", {"card": None})

    def work(lab: Lab) -> None:
        lab.point("fails", lambda: {"half": 1 / 0})
        lab.point("hangs", lambda: {"count": next(i for i in iter(int, 1) if i)})  # for ever
        lab.point("is late", dict)

    lab.run("section", work, time.perf_counter() + 0.2)
    kept = json.loads((tmp_path / "points.json").read_text())["points"]
    assert [p.get("error", p.get("skipped"))[:17] for p in kept] == [
        "ZeroDivisionError",
        "OutOfTimeError: s",
        "no time was left",
    ]
