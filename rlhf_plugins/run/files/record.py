"""Reads a run from its folder, finished or still running. It reads files only, so another process may write them.

Rows are plain dictionaries with `stage` and `step`, ready for `pandas.DataFrame(record.metrics())`.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic_core import from_json

from rlhf_plugins.contract.metrics import curve
from rlhf_plugins.contract.run import Curve, StageResult
from rlhf_plugins.data.file_names import RECIPE
from rlhf_plugins.errors import RunError, nearest, nearest_path
from rlhf_plugins.run.files.folder import GPU, RunFolder

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.report.schema import Report

Row = dict[str, Any]
Kind = Literal["metrics", "samples", "alarms"]
KINDS: tuple[Kind, ...] = ("metrics", "samples", "alarms")
ENDED = ("finished", "failed", "interrupted")
NOT_FINITE = {"nan", "inf", "-inf"}  # how a number that JSON cannot hold is written
TEXTS = ("stage", "prompt", "response", "message")


class Entry(NamedTuple):
    """A new row of a run, and what it is a row of."""

    kind: Kind
    row: Row


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder shows it now; every access reads the files again."""

    folder: Path

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe."""
        return self._files.recipe()

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed` or `interrupted`. A process that was killed leaves `running`."""
        return str(self._files.status().get("status", "running"))

    @property
    def message(self) -> str:
        """Why the run stopped; empty where it did not."""
        return str(self._files.status().get("message") or "")

    @property
    def stage(self) -> str | None:
        """The stage that runs, or where the run stopped."""
        return self._files.status().get("stage")

    @property
    def steps(self) -> int | None:
        """About how many steps of the optimizer the stage that runs will take; None is unknown."""
        return self._files.status().get("steps")

    @property
    def made_with(self) -> dict[str, str]:
        """What the run was made with, by dotted name: recipe, rows and files by digest, code, versions, hardware."""
        from rlhf_plugins.run.files.catalogue import made_with

        return made_with(self._files)

    @property
    def memory(self) -> int | None:
        """Bytes of main memory that the run's process has now; None where there is none on this machine."""
        from rlhf_plugins.run.files.lock import process
        from rlhf_plugins.run.memory import resident

        return resident(pid) if (pid := process(self.folder)) else None

    @property
    def gpu_memory(self) -> dict[str, int] | None:
        """Bytes of the GPU that torch had `reserved` when the run last noted it, and the stage's `peak` until then.

        None where the run does not go on, or its process has no CUDA.
        """
        status = self._files.status()
        return status.get(GPU) if status.get("status") == "running" else None

    @property
    def finished(self) -> tuple[StageResult, ...]:
        """The results of the finished stages, in order. Raises RunError when one cannot be read."""
        return tuple(self._files.finished())

    @property
    def report(self) -> Report:
        """The report. Raises RunError while there is none."""
        from rlhf_plugins import report

        return report.read(self.folder)

    @property
    def page(self) -> Path:
        """Where the report is as HTML, if it has been written."""
        from rlhf_plugins.report.files import PAGE

        return self.folder / PAGE

    def data(self) -> Data:
        """The recipe's rows, read again. Raises DataError where they cannot be read, RecipeError for a fault of it."""
        from rlhf_plugins.recipe.check import load_recipe

        assembled = load_recipe(self.folder / RECIPE)
        return assembled.data.load(assembled.base, assembled.seed)

    def stages(self) -> list[str]:
        """The stages that have logged or finished, in the order of their folders; nested ones as `outer/name`."""
        logged = (row["stage"] for _, row in self._rows(KINDS))
        return list(dict.fromkeys([*(result.name for result in self.finished), *logged]))

    def metrics(self, stage: str | None = None) -> Iterator[Row]:
        """A row per stage and step with the numbers that were logged; NaN where one was not finite."""
        return self._of("metrics", stage)

    def samples(self, stage: str | None = None) -> Iterator[Row]:
        """The responses that were kept while policies were trained, each with its step and its numbers."""
        return self._of("samples", stage)

    def alarms(self, stage: str | None = None) -> Iterator[Row]:
        """The alarms of monitors, each with its step, message and evidence."""
        return self._of("alarms", stage)

    def curves(self, stage: str) -> dict[str, Curve]:
        """The numbers that a stage logged, by name; units are known once it has finished."""
        for result in self.finished:
            if result.name == stage:
                return dict(result.curves)
        points: dict[str, list[tuple[int, float]]] = {}
        for row in self.metrics(stage):
            for name in row.keys() - {"stage", "step"}:
                points.setdefault(name, []).append((row["step"], row[name]))
        return {name: curve(name, points[name]) for name in sorted(points)}

    def tail(self, poll: float = 0.5, patience: float | None = None) -> Iterator[Entry]:
        """Every row so far, then each new one as it is written, until the run ends.

        Rows of metrics come once, with values that are new. Samples of a stage that is started again come again.

        Args:
            poll: seconds between two reads of the files.
            patience: seconds without a new row after which to stop, for a writer that was killed; None: no limit.
        """
        reader, latest = _Reader(self.folder), time.monotonic()
        while True:
            ended = self.status in ENDED  # before the files are read, so that no row is missed
            for entry in reader.news(KINDS):
                latest = time.monotonic()
                yield entry
            if ended or (patience is not None and time.monotonic() - latest > patience):
                return
            time.sleep(poll)

    @property
    def _files(self) -> RunFolder:
        return RunFolder(self.folder)

    def _rows(self, kinds: tuple[Kind, ...]) -> Iterator[Entry]:
        return _Reader(self.folder).news(kinds)

    def _of(self, kind: Kind, stage: str | None) -> Iterator[Row]:
        rows = [row for _, row in self._rows((kind,))]
        if stage is not None and stage not in (names := self.stages()):
            raise RunError(f"{self.folder}: no stage {stage!r} {nearest(stage, names)}")
        return iter([row for row in rows if stage in (None, row["stage"])])


def open_run(path: str | Path, wait: float = 0.0) -> RunRecord:
    """The run in a folder, finished or still running.

    Args:
        path: the run's folder, its `output_dir`.
        wait: seconds to wait for a run that another process is about to start.

    Raises:
        RunError: the folder holds no run.
    """
    folder, until = RunFolder(Path(path)), time.monotonic() + wait
    while not folder.is_run:
        if time.monotonic() >= until:
            near = nearest_path(path, lambda beside: RunFolder(beside).is_run)
            raise RunError(f"{path} holds no run: it has no recipe.yaml and status.json of one{near}")
        time.sleep(0.1)
    return RunRecord(folder.path)


@dataclass
class _Reader:
    """Reads the rows that were appended to the run's files since the last read."""

    folder: Path
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)  # file -> inode, bytes read
    logged: dict[tuple[str, int], Row] = field(default_factory=dict)  # stage, step -> the first values
    others: set[tuple[str, int, str, str]] = field(default_factory=set)  # stage, step, name, value of those after them

    def news(self, kinds: tuple[Kind, ...]) -> Iterator[Entry]:
        for kind in kinds:
            for file in sorted(self.folder.rglob(f"{kind}.jsonl")):
                stage = self._stage(file)
                for row in self._appended(file):
                    row.setdefault("stage", stage)
                    row.setdefault("step", 0)
                    if kind != "metrics" or (row := self._unseen(row)):
                        yield Entry(kind, row)

    def _appended(self, file: Path) -> Iterator[Row]:
        """The whole lines after the last one read; from the start where the file was replaced."""
        try:
            with file.open("rb") as stream:
                inode, read = self.places.get(file, (0, 0))
                size = stream.seek(0, 2)
                now = os.fstat(stream.fileno()).st_ino
                stream.seek(read if inode == now and size >= read else 0)
                start = stream.tell()
                content = stream.read()
        except FileNotFoundError:  # a stage that is started again
            return
        whole = content.rpartition(b"\n")
        self.places[file] = now, start + len(whole[0]) + len(whole[1])
        for line in whole[0].split(b"\n"):
            if row := _row(line):
                yield row

    def _unseen(self, row: Row) -> Row:
        """The values of a step that are new; empty where there is none. The file is rewritten when a run ends."""
        at = row["stage"], row["step"]
        if at not in self.logged:
            self.logged[at] = {**row}
            return row
        first = self.logged[at]
        changed = {name: value for name, value in row.items() if repr(first.get(name)) != repr(value)}  # NaN is NaN
        new = {name: value for name, value in changed.items() if (*at, name, repr(value)) not in self.others}
        self.others |= {(*at, name, repr(value)) for name, value in new.items()}
        return {"stage": at[0], "step": at[1], **new} if new else {}

    def _stage(self, file: Path) -> str:
        """`improve/r2.sft` for a file in `03-improve/r2.sft`."""
        return re.sub(r"^\d\d-", "", file.parent.relative_to(self.folder).as_posix())


def _row(line: bytes) -> Row | None:
    """A line as a row; None where a writer that was killed left half of it."""
    try:
        row = from_json(line)
    except ValueError:
        try:
            row = json.loads(line)  # three times slower, and takes half a surrogate pair as well
        except ValueError:
            return None
    if not isinstance(row, dict):
        return None
    for name in [name for name, value in row.items() if value.__class__ is not float and value.__class__ is not int]:
        row[name] = _number(name, row[name])
    return row


def _number(name: str, value: Any) -> Any:
    if name not in TEXTS and (value is None or (isinstance(value, str) and value in NOT_FINITE)):
        return float(value or "nan")
    return value
