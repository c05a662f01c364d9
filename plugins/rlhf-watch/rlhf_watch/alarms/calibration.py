"""Fits thresholds to clean runs: reads the curves that monitors left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_plugins import RunError, RunRecord, nearest_path, open_run
from rlhf_watch.alarms.limits import Limits
from rlhf_watch.alarms.thresholds import joint_thresholds
from rlhf_watch.alarms.watched import CURVE, statistic_options

Maxima = dict[str, float]


def calibrate(folders: Sequence[Path], rate: float) -> Limits:
    """Thresholds that a fresh clean run exceeds, in any monitor, at this rate.

    Args:
        folders: runs, or folders of runs; each run is taken as clean.
        rate: the rate of runs that alarm.

    Raises:
        RunError: a run has no statistics, not those of the others, or its monitors have other options.
        DataError: there are too few runs for the rate.
    """
    records = [open_run(folder) for folder in _runs(folders)]
    if not records:
        raise RunError(f"{', '.join(map(str, folders))}: no run")
    for record in records:
        if record.status != "finished":
            raise RunError(f"{record.folder} is {record.status}: only a finished run shows what a clean one does")
    found = [_maxima(record) for record in records]
    options = _options(records[0])
    for record, (largest, _) in zip(records, found, strict=True):
        if largest.keys() != found[0][0].keys():
            raise RunError(f"{record.folder} has other monitors than {records[0].folder}")
        if _options(record) != options:
            raise RunError(f"{record.folder}: its monitors have other options than those of {records[0].folder}")
    thresholds = joint_thresholds({name: [one[name] for one, _ in found] for name in found[0][0]}, rate)
    rollouts = {name: min(seen[name] for _, seen in found) for name in thresholds}
    monitors = {
        name: {"threshold": limit, "options": options.get(name, {}), "rollouts": rollouts[name]}
        for name, limit in thresholds.items()
    }
    return Limits(rate, len(records), max(rollouts.values()), monitors)


def _runs(folders: Iterable[Path]) -> list[Path]:
    """Each run once, however often it is named: copies of one run would count as runs of their own."""
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"{folder}: no such folder{nearest_path(folder, Path.is_dir)}")
        is_run = (folder / "status.json").exists()
        for run in [folder] if is_run else sorted(file.parent for file in folder.glob("*/status.json")):
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _maxima(record: RunRecord) -> tuple[Maxima, dict[str, int]]:
    """The largest value of each statistic, and how many rollouts have one in a stage; the most of them."""
    largest: Maxima = {}
    steps: dict[str, dict[str, set[int]]] = {}
    for row in record.metrics():
        for name, value in row.items():
            if name.startswith(CURVE):
                monitor = name.removeprefix(CURVE)
                largest[monitor] = max(largest.get(monitor, 0.0), value)
                steps.setdefault(monitor, {}).setdefault(row["stage"], set()).add(row["step"])
    if not largest:
        raise RunError(f"{record.folder}: no curve `{CURVE}...`; train it with monitors of rlhf-watch")
    return largest, {monitor: max(map(len, of.values())) for monitor, of in steps.items()}


def _options(record: RunRecord) -> Mapping[str, Any]:
    """The options of every monitor of a run, by name. Raises RunError where stages give one other options."""
    found: dict[str, Any] = {}
    for spec in (spec for stage in record.recipe["stages"] for spec in stage.get("monitors") or ()):
        options = statistic_options(spec)
        if found.setdefault(spec["use"], options) != options:
            raise RunError(f"{record.folder}: stages give {spec['use']} other options; a threshold is of one")
    return found
