"""Progress of long work: a bar in a terminal, a line now and then in a file, with the time left.

A run says how long its later stages take; the switch is of the process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rlhf_plugins.report.words import duration, memory

Part = TypeVar("Part")
EVERY = 10.0  # seconds between lines, where nobody looks at a terminal
SOON = 5.0  # seconds of loading, after which the end is said too
HEAVY = 2**28  # bytes of weights that take a moment to load
Later = Callable[[float, float], float | None]  # the share of a stage that is done and its seconds -> those after it


class _Run:
    later: Later | None = None


def weights_of(path: str) -> int | None:
    """Bytes of the weights in a folder; None of a hub name, which may have to be downloaded."""
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors")) if os.path.isdir(path) else None


@contextmanager
def loading(path: str, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """For the block, which loads a heavy model: a log file says which, and after some seconds that it is there.

    In a terminal, transformers draws a bar.
    """
    from rlhf_plugins.contract import processes  # here, since it would lengthen chains of imports

    size = weights_of(path)
    if sys.stderr.isatty() or processes.index() > 0 or (size is not None and size < HEAVY):
        yield
        return
    began = clock()
    line(f"loading {path}" + (f" ({memory(size)})" if size else ""))
    yield
    if (taken := clock() - began) >= SOON:
        line(f"loaded {path} in {duration(taken)}")


def line(text: str) -> None:
    """Writes a line to standard error, where the progress is."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def before(later: Later | None) -> Iterator[None]:
    """Within the block, a stage, bars also say how long the run takes; None: unknown."""
    outer, _Run.later = _Run.later, later
    try:
        yield
    finally:
        _Run.later = outer


def left(share: float, taken: float) -> str:
    """The time left of something of which a share, more than 0, took so many seconds."""
    return f"about {duration(_rest(share, taken))} left"


def left_of_run(share: float, taken: float) -> str:
    """The same of the run, where it is a stage; empty where that is unknown, and where no stage comes after."""
    after = _Run.later(share, taken) if _Run.later and share else None
    return f"about {duration(_rest(share, taken) + after)} left of the run" if after else ""


def _rest(share: float, taken: float) -> float:
    return taken * max(1 - share, 0.0) / share


class Counted:
    """How far an evaluation or the like is.

    Args:
        name: what it is.
        total: how many there are.
        unit: of what.
        every: seconds between two lines.
        clock: seconds.
        part: whether it is a part of a stage, which says nothing of the run; its bar comes late, and goes.
    """

    def __init__(
        self,
        name: str,
        total: int,
        unit: str,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
        part: bool = False,
    ) -> None:
        from rlhf_plugins.contract import processes  # here, since it would lengthen chains of imports

        self._name, self._total, self._unit, self._every, self._clock = name, total, unit, every, clock
        self._began = self._said = clock()
        self._done, self._part = 0, part
        self._bar: Any = None
        self._silent = processes.index() > 0
        if sys.stderr.isatty() and not self._silent:
            from tqdm import tqdm

            how = {"leave": False, "delay": 1.0} if part else {}
            self._bar = tqdm(total=total, desc=name, unit=f" {unit}", dynamic_ncols=True, **how)

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done = min(self._done + count, self._total)
        if self._bar is not None:
            self._bar.update(self._done - self._bar.n)
            self._bar.set_postfix_str(self._of_run(self._done / self._total, self._clock() - self._began))
        elif not self._silent and self._clock() - self._said >= self._every and self._done < self._total:
            self._said = self._clock()
            so_far = self._done / self._total, self._said - self._began
            words = (
                f"{self._name}: {self._done:,} of {self._total:,} {self._unit}",
                left(*so_far),
                self._of_run(*so_far),
            )
            line(", ".join(filter(None, words)))

    def _of_run(self, share: float, taken: float) -> str:
        return "" if self._part else left_of_run(share, taken)

    def close(self) -> None:
        """Nothing more is done."""
        if self._bar is not None:
            self._bar.close()


def counted(
    parts: Iterable[Part], name: str, total: int, unit: str, size: Callable[[Part], int] = lambda _: 1
) -> Iterator[Part]:
    """The parts of something that a stage does, counted as they are done.

    Args:
        parts: in order.
        name: what is done.
        total: the sum of their sizes.
        unit: of their sizes.
        size: the size of a part.
    """
    shown = Counted(name, total, unit, part=True)
    try:
        for part in parts:
            yield part
            shown.add(size(part))
    finally:
        shown.close()
