"""Reports slow imports of plugins, without the time of libraries that this project imports itself."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import requires
from time import monotonic
from types import FrameType

OURS = "rlhf_plugins"
TICK = 0.1  # seconds between two looks at what is being imported


@contextmanager
def watched(seconds: float, say: Callable[[], None]) -> Iterator[None]:
    """Calls `say` in another thread once the block took this long, without the time of imports of libraries in it."""
    thread, over = threading.get_ident(), threading.Event()
    outer = len(_importing(thread))

    def watch() -> None:
        own, before = 0.0, monotonic()
        while own < seconds:
            if over.wait(TICK):
                return
            names = _importing(thread)
            now = monotonic()
            if _libraries().isdisjoint(name.partition(".")[0] for name in names[outer:]):
                own += now - before
            before = now
        say()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


@cache
def _libraries() -> frozenset[str]:
    """The modules of this project and of the packages that it requires, where a package's name is its module's."""
    names = (re.match(r"[\w.-]+", each) for each in requires("rlhf-plugins") or ())
    return frozenset({OURS, *(found[0].replace("-", "_") for found in names if found)})


def _importing(thread: int) -> list[str]:
    """The modules that a thread is importing, the outermost first."""
    found, frame = list[str](), sys._current_frames().get(thread)
    while frame is not None:
        if name := _imported_by(frame):
            found.append(name)
        frame = frame.f_back
    return found[::-1]


def _imported_by(frame: FrameType) -> str | None:
    code = frame.f_code
    if code.co_name != "_find_and_load" or "importlib" not in code.co_filename:
        return None
    return str(frame.f_locals.get("name", ""))
