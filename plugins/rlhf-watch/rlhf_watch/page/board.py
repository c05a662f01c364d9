"""What the runs of a folder log, read while they are written. It knows runs, not how they are shown."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_plugins import RlhfError, RunRecord, open_run
from rlhf_watch.page.series import Series

DEPTHS = ("status.json", "*/status.json", "*/*/status.json")
LONGEST = 2_000  # characters of a sample that are shown
Row = dict[str, Any]


@dataclass
class Followed:
    """One run: its curves by stage and name, its newest samples and alarms. A thread follows the files."""

    name: str
    record: RunRecord
    curves: dict[str, Series] = field(default_factory=dict)
    samples: deque[Row] = field(default_factory=lambda: deque(maxlen=24))
    alarms: deque[Row] = field(default_factory=lambda: deque(maxlen=100))
    lock: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread | None = None
    whole: bool = False  # all rows of a run that ended have been read
    pace: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))  # when a step was seen
    at: tuple[str, int] = ("", 0)  # the newest stage and step

    def follow(self, poll: float = 0.5) -> None:
        """Reads what there is, and what comes, in a thread of its own; at most once."""
        if self.thread is None:
            self.thread = threading.Thread(target=self.read, args=(poll,), daemon=True)
            self.thread.start()

    def read(self, poll: float = 0.5) -> None:
        """Every row until the run ends."""
        self._rows(self.record.tail(poll=poll))
        self.whole = True

    def read_now(self) -> None:
        """What there is, without waiting for more; of a run that nobody follows."""
        self._rows(self.record.tail(poll=0, patience=0))

    def _rows(self, rows: Iterable[tuple[str, Row]]) -> None:
        try:
            for kind, row in rows:
                with self.lock:
                    getattr(self, f"_{kind}")(row)
        except RlhfError as error:  # files that somebody deleted or broke
            with self.lock:
                self.alarms.append({"step": 0, "monitor": "files", "message": str(error)})

    def _metrics(self, row: Row) -> None:
        stage, step = str(row["stage"]), row["step"]
        if not isinstance(step, int):
            return
        if stage != self.at[0]:
            self.pace.clear()
        self.at = stage, step
        self.pace.append((time.monotonic(), step))
        for name, value in row.items():
            if name not in ("stage", "step") and isinstance(value, int | float):
                self._add(f"{stage}/{name}", step, float(value))

    def _samples(self, row: Row) -> None:
        self.samples.append({name: _cut(value) for name, value in row.items()})
        step = row["step"] if isinstance(row["step"], int) else 0
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._add(f"{row['stage']}/samples: {name}", step, float(value))

    def _alarms(self, row: Row) -> None:
        self.alarms.append({name: _cut(value) for name, value in row.items() if name != "evidence"})

    def _add(self, name: str, step: int, value: float) -> None:
        if name not in self.curves:
            self.curves[name] = Series()
        self.curves[name].add(step, value)

    def latest(self, name: str) -> float | None:
        """The newest value of a curve of the newest stage; None where there is none, or it is not finite."""
        with self.lock:
            curve = self.curves.get(f"{self.at[0]}/{name}")
            return None if curve is None or not math.isfinite(curve.last) else curve.last

    def seconds_left(self) -> float | None:
        """At the pace that was seen; None where neither is known."""
        total = _total(self.record, self.at[0])
        with self.lock:
            if total is None or len(self.pace) < 2:
                return None
            (start, first), (now, last) = self.pace[0], self.pace[-1]
        return None if last <= first else max(0.0, (total - last) * (now - start) / (last - first))

    def shown(self) -> Row:
        """Everything, as JSON holds it."""
        with self.lock:
            curves = {
                name: {"points": one.points(), "last": _finite(one.last), "not_finite": one.not_finite}
                for name, one in sorted(self.curves.items())
            }
            rows = {"samples": [*self.samples][::-1], "alarms": [*self.alarms][::-1]}
        return {**self.summary(), "curves": curves, **rows}

    def summary(self) -> Row:
        """What the list of runs shows."""
        try:
            status, message = self.record.status, self.record.message
        except RlhfError as error:  # status.json is being replaced, or is broken
            status, message = "unreadable", str(error)
        left = self.seconds_left() if status == "running" else None
        stage, step = self.at
        return {"name": self.name, "status": status, "message": message, "stage": stage, "step": step, "left": left}


class Board:
    """The runs in a folder and below it, found again at every look."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: dict[str, Followed] = {}

    def runs(self) -> list[Followed]:
        """All runs, the newest first."""
        for path in self._folders():
            name = path.relative_to(self.folder).as_posix() if path != self.folder else path.name
            if name not in self._runs:
                try:
                    self._runs[name] = Followed(name, open_run(path))
                except RlhfError:  # not yet whole, or another program's
                    continue
        return sorted(self._runs.values(), key=_started, reverse=True)

    def first(self) -> str:
        """The name of the run that is shown where nobody chose: the newest that runs, else the newest."""
        runs = self.runs()
        return next((run.name for run in runs if run.summary()["status"] == "running"), runs[0].name if runs else "")

    def run(self, name: str) -> Followed | None:
        """A run by its name, which is followed from now on."""
        found = self._runs.get(name)
        if found is not None:
            found.follow()
        return found

    def _folders(self) -> Iterator[Path]:
        for pattern in DEPTHS:
            yield from (file.parent for file in self.folder.glob(pattern))


def _started(run: Followed) -> float:
    try:
        return (run.record.folder / "recipe.yaml").stat().st_mtime
    except OSError:
        return 0.0


def _total(record: RunRecord, stage: str) -> int | None:
    """The steps of a stage, where its recipe says."""
    try:
        stages = record.recipe.get("stages", [])
    except RlhfError:
        return None
    named = [one for one in stages if stage in (one.get("name"), one.get("stage"))]
    steps = (named[0].get("trainer") or {}).get("max_steps") if named else None
    return steps if isinstance(steps, int) and steps > 0 else None


def _cut(value: Any) -> Any:
    if isinstance(value, float):
        return _finite(value)
    return value if isinstance(value, int | bool | None) else str(value)[:LONGEST]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
