"""What `rlhf check` finds out about a local file of rows; it reads no more than it has time for."""

from __future__ import annotations

from collections import deque
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.data.columns import columns_of
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.partial_reads import FIRST, LARGE, MAX_BYTES
from rlhf_plugins.data.rows import PACKED, read_rows
from rlhf_plugins.data.splits import useful
from rlhf_plugins.errors import DataError

if TYPE_CHECKING:
    from rlhf_plugins.data.sources import Sources
    from rlhf_plugins.data.splits import Read


def columns_of_file(sources: Sources, read: Read) -> frozenset[str] | None:
    """The columns of a local file; None for a large file, one that cannot be read, and a data set on the hub."""
    groups = _small(sources, read)
    return None if groups is None else columns_of(groups)


def rows_of_file(sources: Sources, read: Read) -> int | None:
    """About how many groups of a local file are trained on; None where `columns_of_file` is None."""
    groups = _small(sources, read)
    if groups is None:
        return None
    return len(groups) if sources.test_source else round(len(groups) * (1 - sources.test_fraction))


def _small(sources: Sources, read: Read) -> list[Group] | None:
    """The groups of a local file that is not large."""
    path = Path(sources.source)
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        return [group for _, group in read(read_rows(sources.source), Dropped())]
    except (DataError, OSError):
        return None  # loading the data reports it


def fault_of_file(source: str, split: str, read: Read) -> str:
    """Why loading the rows of a local file will fail; empty where nothing was found, and for what is not read.

    Of a file over `MAX_BYTES` the first rows are read; a fault that they show is looked for in all rows, since a reader
    may need those that follow.
    """
    path = Path(source)
    try:
        size = path.stat().st_size if path.is_file() else LARGE
        if size <= MAX_BYTES or (size < LARGE and path.suffix not in PACKED and not _starts_well(source, read)):
            useful(source, split, read, Dropped())
    except OSError:
        return ""  # loading the data reports it
    except DataError as error:
        return str(error)
    return ""


def _starts_well(source: str, read: Read) -> bool:
    """Whether the first rows of a file can be read."""
    try:
        deque(read(islice(read_rows(source), FIRST), Dropped()), maxlen=0)
    except DataError:
        return False
    return True
