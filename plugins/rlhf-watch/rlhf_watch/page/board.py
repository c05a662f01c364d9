"""What the runs of a folder log, read while they are written."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from rlhf_plugins import RlhfError, RunRecord, StageResult, open_run
from rlhf_watch.page.series import Series
from rlhf_watch.page.written import as_json

DEPTH = 2  # folders below the given one in which there may be runs
LOOK = 0.2  # seconds within which rows are one look at the pace
LONGEST = 2_000  # characters of a sample that are shown
MANY = 4_096  # rows that wait to be added to the curves, at most
Row = dict[str, Any]


@dataclass
class Followed:
    """One run: its curves by stage and name, its newest samples and alarms. A thread follows the files."""

    name: str
    record: RunRecord
    curves: dict[str, Series] = field(default_factory=lambda: defaultdict(Series))
    waiting: list[Row] = field(default_factory=list)  # rows of metrics that are not yet in the curves
    samples: deque[Row] = field(default_factory=lambda: deque(maxlen=24))
    alarms: deque[Row] = field(default_factory=lambda: deque(maxlen=100))
    lock: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread | None = None
    whole: bool = False  # all rows of a run that ended have been read
    pace: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))  # when a step was seen
    at: tuple[str, int] = ("", 0)  # the newest stage and step
    made_with: dict[str, str] = field(default_factory=dict)  # and what its finished stages used
    noted: tuple[object, Row] = (None, {})  # which file its state was read from, and its state
    written: tuple[Row, str] = ({}, "")  # in short, and as JSON with its curves

    def follow(self, poll: float = 0.5, patience: float = 0.0) -> None:
        """Reads what there is, and what comes, in a thread of its own, and waits so many seconds for its end."""
        with self.lock:  # requests are answered in several threads: two readers would add every row twice
            if self.whole and self._state()["status"] == "running":  # somebody resumed it
                self._forget()
            if self.thread is None:
                self.thread = threading.Thread(target=self.read, args=(poll,), daemon=True)
                self.thread.start()
        self.thread.join(patience)

    def read(self, poll: float = 0.5) -> None:
        """Every row until the run ends."""
        self._rows(self.record.tail(poll=poll))
        self.whole = True
        self.text()

    def _forget(self) -> None:
        self.thread, self.whole = None, False
        for rows in (self.curves, self.waiting, self.samples, self.alarms):
            rows.clear()

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
        self._look()

    def _look(self) -> None:
        """Reads what the run notes of itself; nothing where that is torn or another program's."""
        with suppress(RlhfError):
            self.made_with = self.record.made_with | dict(_used(self.record.finished))

    def _metrics(self, row: Row) -> None:
        stage, step = str(row["stage"]), row["step"]
        if not isinstance(step, int):
            return
        if stage != self.at[0]:
            self.pace.clear()
            self._look()
        self.at = stage, step
        if self.pace and time.monotonic() - self.pace[-1][0] < LOOK:  # rows that were there already come at once
            self.pace[-1] = self.pace[-1][0], step
        else:
            self.pace.append((time.monotonic(), step))
        self.waiting.append(row)
        if len(self.waiting) >= MANY:
            self._add_waiting()

    def _add_waiting(self) -> None:
        """Rows that follow each other and have the same names are added as columns, which is faster."""
        rows, self.waiting = self.waiting, []
        for (stage, *names), same in groupby(rows, key=lambda row: (row["stage"], *row)):
            found = [*same]
            steps = [*map(itemgetter("step"), found)]
            for name in names:
                if name not in ("stage", "step"):
                    self._add(f"{stage}/{name}", steps, [*map(itemgetter(name), found)])

    def _add(self, name: str, steps: list[int], values: list[Any]) -> None:
        if {float}.issuperset(map(type, values)):
            self.curves[name].extend(steps, values)
            return
        for step, value in zip(steps, values, strict=True):
            if isinstance(value, int | float):
                self.curves[name].add(step, _float(value))

    def _samples(self, row: Row) -> None:
        self.samples.append({name: _cut(value) for name, value in row.items()})
        step = row["step"] if isinstance(row["step"], int) else 0
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self.curves[f"{row['stage']}/samples: {name}"].add(step, float(value))

    def _alarms(self, row: Row) -> None:
        self.alarms.append({name: _cut(value) for name, value in row.items() if name != "evidence"})

    def curve(self, name: str) -> Series:
        """A curve of the newest stage; empty where there is none."""
        with self.lock:
            self._add_waiting()
            return self.curves.get(f"{self.at[0]}/{name}", Series())

    def steps_per_second(self) -> float | None:
        """The pace that was seen; None where there is none."""
        with self.lock:
            if len(self.pace) < 2:
                return None
            (start, first), (now, last) = self.pace[0], self.pace[-1]
        return None if last <= first or now <= start else (last - first) / (now - start)

    def shown(self) -> Row:
        """Everything, as JSON holds it."""
        with self.lock:
            self._add_waiting()
            curves = {
                name: {"points": one.points(), "last": _finite(one.last), "not_finite": one.not_finite}
                for name, one in sorted(self.curves.items())
            }
            rows = {"samples": [*self.samples][::-1], "alarms": [*self.alarms][::-1]}
        return {**self.summary(), "curves": curves, "made_with": self.made_with, **rows}

    def text(self) -> str:
        """The same as JSON, which is made once of a run that has ended and was read whole."""
        short = self.summary()
        if not self.whole or self.written[0] != short:
            self.written = short, as_json(self.shown())
        return self.written[1]

    def summary(self) -> Row:
        """What the list of runs shows."""
        stage, step = self.at
        found = {"name": self.name, **self._state(), "stage": stage, "step": step}
        return found | (self._running(stage, step) if found["status"] == "running" else {})

    def _state(self) -> Row:
        """The run's status and why it stopped. Its file is read where it is another than before."""
        try:
            file = os.stat(f"{self.record.folder}/status.json")
            mark = file.st_ino, file.st_mtime_ns, file.st_size
            if mark != self.noted[0]:
                status = self.record.status
                message = "" if status in ("running", "finished") else self.record.message
                self.noted = mark, {"status": status, "message": message}
            return self.noted[1]
        except (RlhfError, OSError) as error:  # it is being replaced, or is broken or deleted
            return {"status": "unreadable", "message": str(error)}

    def _running(self, stage: str, step: int) -> Row:
        """Steps per second, seconds left in the stage, and bytes of memory and of the GPU's, None where unknown."""
        pace, record = self.steps_per_second(), self.record
        total = record.steps if record.stage == stage else None
        left = None if pace is None or total is None else max(0.0, (total - step) / pace)
        return {"pace": pace, "left": left, "memory": record.memory, "gpu_memory": record.gpu_memory}


class Board:
    """The runs in a folder and below it, found again at every look."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: dict[str, Followed] = {}
        self._lock = threading.Lock()  # of this table

    def runs(self) -> list[Followed]:
        """All runs, the newest first."""
        with self._lock:
            for below, path in _folders(str(self.folder)):
                if (name := below or self.folder.resolve().name) not in self._runs:
                    with suppress(RlhfError):  # not yet whole, or another program's
                        self._runs[name] = Followed(name, open_run(path))
            found = [*self._runs.values()]
        return sorted(found, key=_started, reverse=True)

    def start(self, patience: float = 0.0) -> list[str]:
        """All runs in short, but with its curves the one that is shown where nobody chose, each as JSON.

        That is the newest that runs, else the newest. One that has ended is read whole if that takes no longer than
        `patience` seconds.
        """
        runs = self.runs()
        rows = [run.summary() for run in runs]
        texts = [*map(as_json, rows)]
        if runs:
            place = next((i for i, row in enumerate(rows) if row["status"] == "running"), 0)
            runs[place].follow(patience=0.0 if rows[place]["status"] == "running" else patience)
            texts[place] = runs[place].text()
        return texts

    def run(self, name: str) -> Followed | None:
        """A run by its name, which is followed from now on."""
        found = self._runs.get(name)
        if found is not None:
            found.follow()
        return found


def _folders(path: str, name: str = "", depth: int = DEPTH) -> Iterator[tuple[str, str]]:
    """The folders that hold a status, each as its path below the first folder and its full path."""
    if os.path.exists(f"{path}/status.json"):
        yield name, path
    with suppress(OSError):  # another user's, or just deleted
        for entry in os.scandir(path) if depth else ():
            if entry.is_dir():
                yield from _folders(entry.path, f"{name}/{entry.name}" if name else entry.name, depth - 1)


def _started(run: Followed) -> float:
    try:
        return os.stat(f"{run.record.folder}/recipe.yaml").st_mtime
    except OSError:
        return 0.0


def _used(results: Iterable[StageResult]) -> Iterator[tuple[str, str]]:
    """Seconds, tokens per second and peak memory of finished stages, by dotted name."""
    for result in results:
        cost = result.cost
        if cost.seconds:
            tokens = (cost.generated_tokens + cost.trained_tokens) / cost.seconds
            yield f"cost.{result.name}", f"{cost.seconds:.1f} s, {tokens:.0f} tokens/s, {memory(cost.peak_bytes)}"


def memory(size: int | None) -> str:
    """In GiB."""
    return "memory not known" if size is None else f"{size / 2**30:.2f} GiB"


def _cut(value: Any) -> Any:
    if isinstance(value, float):
        return _finite(value)
    return value if isinstance(value, int | bool | None) else str(value)[:LONGEST]


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
