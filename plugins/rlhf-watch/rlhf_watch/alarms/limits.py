"""A file of thresholds: what `rlhf watch calibrate` writes and monitors read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlhf_plugins import Run, RunError

SANDBOX = "sandbox"  # names the thresholds that are shipped
SHIPPED = Path(__file__).with_name("sandbox.json")  # by benchmarks/sandbox_thresholds.py


@dataclass(frozen=True)
class Limit:
    """The threshold of one monitor.

    Args:
        threshold: the threshold of its statistic.
        options: the options of the monitor, for which it holds.
        rate: the rate of clean runs in which any monitor of the file alarms.
        runs: clean runs that it was fitted on.
        rollouts: of the shortest of them that had the statistic, which may start late; nothing is known of more.
        fitted: on which runs and machine, by what, where the thresholds are shipped.
    """

    threshold: float
    options: Mapping[str, Any]
    rate: float
    runs: int
    rollouts: int
    fitted: Mapping[str, str]


@dataclass(frozen=True)
class Limits:
    """All of a file."""

    rate: float
    runs: int
    rollouts: int
    monitors: Mapping[str, Mapping[str, Any]]  # name -> threshold, options and rollouts
    fitted: Mapping[str, str] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Writes all of it to a JSON file."""
        file.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_limit(file: str, monitor: str, options: Mapping[str, Any]) -> Limit:
    """The threshold of a monitor with these options.

    Raises:
        RunError: the file cannot be read, or holds no threshold for this monitor, or for other options.
    """
    limits = read_limits(file)
    if monitor not in limits.monitors:
        raise RunError(f"{file}: no threshold for {monitor} (known: {', '.join(limits.monitors) or 'none'})")
    found = limits.monitors[monitor]
    if other := [name for name in found["options"] if found["options"][name] != options.get(name)]:
        was, now = found["options"][other[0]], options.get(other[0])
        raise RunError(f"{file}: {monitor} was calibrated with {other[0]} {was}, not {now}; calibrate again")
    threshold = float(found["threshold"])
    rollouts = int(found.get("rollouts", limits.rollouts))  # of the whole run in files of older versions
    return Limit(threshold, found["options"], limits.rate, limits.runs, rollouts, limits.fitted)


def shipped_limit(monitor: str, options: Mapping[str, Any], run: Run) -> Limit:
    """The threshold that is shipped for the sandbox.

    Raises:
        RunError: the run trains another policy than the sandbox's, or the monitor has other options.
    """
    if run.data.gold is None or Path(run.base.path).parts[-2:] != (SANDBOX, "policy"):
        raise RunError(
            f"the thresholds that are shipped for {monitor} are of `base: sandbox` with data of the sandbox; fit your "
            "own with `rlhf watch calibrate`"
        )
    return read_limit(str(SHIPPED), monitor, options)


def read_limits(file: str) -> Limits:
    try:
        return Limits(**json.loads(Path(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{file}: no thresholds that `rlhf watch calibrate` wrote: {error}") from error
