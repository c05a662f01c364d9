"""Runs the recipes of a suite: a finished one is never run again, an interrupted one goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from multiprocessing import get_context
from pathlib import Path

from rlhf_bench.suite import Cell
from rlhf_plugins import RlhfError, RunError, RunInUse, open_run, run_recipe

Say = Callable[[str], None]
KILLED = "its process was ended from outside, perhaps for its memory; the same command goes on with it"
ENDED = {"running": KILLED, "finished": ""}  # what became of a run whose pool broke, by its status; others waited
ONCE = ".once"  # the end of a file beside a run that a version began which computes a prompt once for all its responses
CELLS = "cells"  # the folder of runs, each named by the digest of its recipe: suites share them


def folder_of(root: Path, cell: Cell) -> Path:
    """Where the run of a cell is, or will be."""
    return root / CELLS / cell.digest


def status_of(root: Path, cell: Cell) -> str:
    """`finished`, `failed`, `interrupted`, `running` (a killed one too), or `missing`."""
    try:
        return open_run(folder_of(root, cell)).status
    except RunError:
        return "missing"


def computes_prompts_once(root: Path, cell: Cell) -> bool:
    """Whether the FLOPs of what a run sampled count a prompt once; older versions computed it for each response."""
    return folder_of(root, cell).with_suffix(ONCE).exists()


def run_all(cells: Sequence[Cell], root: Path, jobs: int = 1, retry: bool = False, say: Say = print) -> None:
    """Runs what is missing, and says how far it is.

    Args:
        cells: what is to be there afterwards.
        root: the folder of all suites.
        jobs: processes at once.
        retry: run again what failed.
        say: prints a line of progress.
    """
    ended = ("finished",) if retry else ("finished", "failed")
    statuses = {cell.digest: status_of(root, cell) for cell in cells}
    missing = list({cell.digest: cell for cell in cells if statuses[cell.digest] not in ended}.values())
    failed = 0 if retry else sum(statuses[cell.digest] == "failed" for cell in cells)
    again = f", {failed} of these failed (--retry runs them again)" if failed else ""
    say(f"{len(cells)} runs, {len(cells) - len(missing)} of them there{again}")
    began = time.monotonic()
    for done, (cell, fault) in enumerate(_each(missing, root, jobs), 1):
        left = (time.monotonic() - began) / done * (len(missing) - done)
        say(f"[{done}/{len(missing)}] {cell}: {fault or 'finished'}; about {_duration(left)} left")


def perform(cell: Cell, root: Path) -> str:
    """Runs one cell, or goes on with it; why it did not finish here, empty where it did."""
    folder = folder_of(root, cell)
    folder.parent.mkdir(parents=True, exist_ok=True)
    status = status_of(root, cell)
    resume = status not in ("missing", "finished")
    if status == "missing":
        folder.with_suffix(ONCE).touch()
    try:
        with folder.with_suffix(".log").open("a", encoding="utf-8") as log, redirect_stderr(log):  # progress bars
            run_recipe({**cell.recipe, "output_dir": str(folder)}, resume=resume, say=_nothing)
    except RunInUse:
        return "left to another command, which runs it"
    except RlhfError as error:
        return f"failed: {str(error).splitlines()[0]}"
    return ""


def _each(cells: Sequence[Cell], root: Path, jobs: int) -> Iterator[tuple[Cell, str]]:
    """Each cell as it ends, with why it did not finish."""
    if jobs == 1:
        yield from ((cell, perform(cell, root)) for cell in cells)
        return
    left = list(cells)
    while left:
        broken = []
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            waiting = {pool.submit(perform, cell, root): cell for cell in left}
            for future in as_completed(waiting):
                try:
                    yield waiting[future], future.result()
                except BrokenProcessPool:  # one process was killed, which ends the others and all that wait
                    broken.append(waiting[future])
        over = {cell.digest: said for cell in broken if (said := ENDED.get(status_of(root, cell))) is not None}
        over = over or dict.fromkeys((cell.digest for cell in broken), KILLED)
        yield from ((cell, over[cell.digest]) for cell in broken if cell.digest in over)
        left = [cell for cell in broken if cell.digest not in over]


def _nothing(line: str) -> None:
    """Prints nothing."""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
