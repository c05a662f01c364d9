"""Limits on what `rlhf check` reads: the first rows of a large file, and nothing that would be downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

from rlhf_plugins.errors import NotLookedAtError

Row = TypeVar("Row")
MAX_BYTES = 2**22  # of a file that a check of a recipe reads whole
LARGE, FIRST = 2**26, 100  # bytes of a file that it does not read, and rows that it reads of one between the two


@dataclass
class Look:
    """One look at what a recipe names.

    Args:
        whole: read files between `MAX_BYTES` and `LARGE` to their ends.
        partly: of which files only the first rows were read, in words.
        size: bytes of the files that it reads; a file that would make them more than `LARGE` is not read.
    """

    whole: bool = False
    partly: dict[str, None] = field(default_factory=dict)
    size: int = 0


_LOOK: ContextVar[Look | None] = ContextVar("look", default=None)


@contextmanager
def looking(whole: bool = False) -> Iterator[Look]:
    """For the block, rows are read as far as a check has time for, and what is not on this machine is refused."""
    token = _LOOK.set(look := Look(whole))
    try:
        yield look
    finally:
        _LOOK.reset(token)


def is_partial() -> bool:
    """Whether the look read only the first rows of some file."""
    return bool((look := _LOOK.get()) and look.partly)


def first_rows(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows of a file, or as many as a look reads. Raises NotLookedAtError for a file that it does not read."""
    look = _LOOK.get()
    if look is None:
        return rows
    size = path.stat().st_size
    if look.size + size > LARGE:
        raise NotLookedAtError(f"{path} ({_mib(size)})")
    look.size += size
    if look.whole or size <= MAX_BYTES:
        return rows
    look.partly[f"the first {FIRST} rows of {path} ({_mib(size)})"] = None
    return islice(rows, FIRST)


def refuse_base(path: str, own_code: bool) -> None:
    """Raises NotLookedAtError in a look, for a base that would be downloaded, or that code of its own reads."""
    if _LOOK.get() is None:
        return
    if own_code:
        raise NotLookedAtError(f"base {path}, which code of its own reads (`trust_remote_code`)")
    refuse_download(path, "base", "config.json")


def refuse_download(name: str, what: str, file: str = "") -> None:
    """Raises NotLookedAtError in a look, for what is on the hub.

    Args:
        name: on the hub, or a folder.
        what: it is, a word.
        file: of it that the hub's cache holds where it was downloaded before; then nothing is refused.
    """
    if _LOOK.get() is None or os.path.exists(name):
        return
    from huggingface_hub import try_to_load_from_cache

    if not file or not isinstance(try_to_load_from_cache(name, file), str):
        raise NotLookedAtError(f"{what} {name}, which is on the hub")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
