"""Runs measurements one after another under deadlines, and keeps each result in a file at once."""

from __future__ import annotations

import gc
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


class OutOfTimeError(Exception):
    """A measurement ran past the deadline of its section."""


@dataclass
class Lab:
    """Where measurements run, and what they found so far."""

    device: str  # cuda or cpu
    tiny: bool  # smallest sizes, to see that everything runs
    scratch: Path  # models and runs
    out: Path  # the JSON file
    header: dict[str, Any]
    points: list[dict[str, Any]] = field(default_factory=list)
    section: str = ""
    until: float = 0.0  # on the clock of time.perf_counter

    @property
    def cuda(self) -> bool:
        """Whether a GPU is measured."""
        return self.device == "cuda"

    def run(self, section: str, work: Callable[[Lab], None], until: float) -> None:
        """Runs a section; a failure outside its points is recorded as a point of its own."""
        self.section, self.until = section, until
        try:
            work(self)
        except Exception as error:
            self._keep({"point": "section", **_failure(error)})

    def point(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """The result of one measurement, which is written at once; None where it failed or no time was left."""
        if self.until - time.perf_counter() <= 0:
            self._keep({"point": name, "skipped": "no time was left"})
            return None
        began, found = time.perf_counter(), None
        try:
            with _alarm(self.until - began):
                found = work()
        except Exception as error:
            kept = _failure(error)
        else:
            kept = found
        self.tidy()
        self._keep({"point": name, **kept, "seconds": round(time.perf_counter() - began, 2)})
        return found

    def tidy(self) -> None:
        """Frees what is left of earlier models, outside any `except` block, whose traceback would hold them."""
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()

    def synchronize(self) -> None:
        """Waits until the GPU has computed what it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def _keep(self, found: dict[str, Any]) -> None:
        self.points.append({"section": self.section, **found})
        self.out.write_text(json.dumps({**self.header, "points": self.points}, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({k: v for k, v in self.points[-1].items() if k != "traceback"}), flush=True)


def forget_peaks(lab: Lab) -> None:
    if lab.cuda:
        torch.cuda.reset_peak_memory_stats()


def peak(lab: Lab) -> dict[str, int]:
    """Peaks in MiB since the memory was last reset, which a run does when a stage starts."""
    if not lab.cuda:
        return {}
    found = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return {f"{name}_mib": value // 2**20 for name, value in found.items()}


def _failure(error: Exception) -> dict[str, Any]:
    last = traceback.format_exc().strip().splitlines()[-12:]
    return {"error": f"{type(error).__name__}: {error}"[:600], "traceback": last}


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises OutOfTimeError in the block after so many seconds; on Windows the block just runs to its end."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: object) -> None:
        raise OutOfTimeError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
