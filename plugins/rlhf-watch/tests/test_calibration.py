"""What calibration reads of clean runs, and what it refuses; the distance of features from the first ones. By hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rlhf_watch.alarms import calibration
from rlhf_watch.alarms.departures import Away

from rlhf_plugins import RunError


def record(values: Sequence[float], monitor: str = "length_drift", status: str = "finished", warm_up: int = 2) -> Any:
    """A run of one stage that logged a monitor's statistic at each step."""
    rows = [{"stage": "online", "step": step, f"watch/{monitor}": value} for step, value in enumerate(values)]
    spec = {"use": "length_drift", "warm_up": warm_up, "notify": "HOOK"}  # of these the statistic has warm_up alone
    stages = [{"stage": "sft"}, {"stage": "online", "monitors": [spec]}]
    return SimpleNamespace(folder=Path("r"), status=status, recipe={"stages": stages}, metrics=lambda: rows)


def calibrated(monkeypatch: pytest.MonkeyPatch, *records: Any) -> tuple[Any, dict[str, list[float]]]:
    """The limits, whose thresholds are all 0, and the maxima that they are fitted to."""
    seen: dict[str, list[float]] = {}
    given = iter(records)
    monkeypatch.setattr(calibration, "_runs", lambda _: records)
    monkeypatch.setattr(calibration, "open_run", lambda _: next(given))
    monkeypatch.setattr(calibration, "joint_thresholds", lambda largest, _: seen.update(largest) or {**largest})
    return calibration.calibrate([], 0.5), seen


def test_the_largest_of_each_run_counts_and_the_shortest_says_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    found, seen = calibrated(monkeypatch, record([0.1, 0.3, 0.2]), record([0.5, 0.4]))
    assert seen == {"length_drift": [0.3, 0.5]}
    of_monitor = found.monitors["length_drift"]
    assert (found.runs, found.rollouts, of_monitor["rollouts"], of_monitor["options"]) == (2, 2, 2, {"warm_up": 2})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (record([]), "no curve `watch/...`"),
        (record([1.0], status="failed"), "r is failed: only a finished run"),
        (record([1.0], monitor="repetition"), "r has other monitors than r"),
        (record([1.0], warm_up=3), "its monitors have other options than those of r"),
    ],
)
def test_runs_that_are_not_alike_are_refused(monkeypatch: pytest.MonkeyPatch, other: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        calibrated(monkeypatch, record([1.0, 2.0]), other)


def test_a_run_that_is_named_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").touch()
    monkeypatch.chdir(tmp_path)
    assert calibration._runs([tmp_path, Path("a")]) == [tmp_path / "a", tmp_path / "b"]
    assert calibration._runs([Path("a")]) == [Path("a")]
    (tmp_path / "a" / "status.json").unlink()
    with pytest.raises(RunError, match="a: no run"):
        calibration.calibrate([tmp_path / "a"], 0.5)
    with pytest.raises(RunError, match="c: no such folder"):
        calibration._runs([tmp_path / "c"])


def test_distances_by_hand() -> None:
    """Means 2 and 2, variances 2/3 and 8/3: of (4, 2) sqrt((4 / (2/3) + 0) / 2). A feature that was constant counts."""
    away = Away()
    assert away.distance(np.full((3, 2), np.nan)) is None  # nothing is remembered of it
    assert away.distance(np.array([[1.0, 0.0], [3.0, 4.0], [2.0, 2.0]])) is None
    assert away.distance(np.array([[3.0, 1.0], [5.0, 3.0], [np.nan, 9.0]])) == pytest.approx(3**0.5)
    constant = Away()
    constant.distance(np.array([[1.0], [1.0]]))
    assert constant.distance(np.array([[1 + 2e-6]])) == pytest.approx(2, rel=1e-6)
