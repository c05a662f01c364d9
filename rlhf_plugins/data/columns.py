"""Which columns the rows have that a loss or a sampler may need. It reads groups and changes nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.rows import PACKED, read_rows
from rlhf_plugins.data.splits import useful
from rlhf_plugins.errors import DataError

if TYPE_CHECKING:
    from rlhf_plugins.data.sources import Sources
    from rlhf_plugins.data.splits import Read

MAX_BYTES = 2**22  # of a file that a check of a recipe reads whole
LARGE, FIRST = 2**26, 100  # bytes of a file that it does not read, and rows that it reads of one between the two
MEANING = {  # of each column: what at least one row must have for it to change a training
    "annotator": "the name of an annotator",
    "difficulty": "two difficulties that differ",
    "margin": "a margin other than 0",
    "probability": "a probability (soft label) below 1",
    "ranks": "two responses with ranks, or one that is preferred to another",
    "ratings": "a rating",
    "ties": "a tie",
    "topic": "two topics",
    "votes": "a pair that was compared twice",
    "weight": "a weight other than 1",
}


def columns_of(groups: Iterable[Group]) -> frozenset[str]:
    """The columns, by their names in `contract.component.COLUMNS`, that change something in a training on the groups.

    A weight of 1 in every row, one topic or equal difficulties change nothing, so the groups lack that column.
    """
    groups = list(groups)
    compared = [comparison for group in groups for comparison in group.comparisons]
    return frozenset(name for name, found in _FOUND.items() if found(groups, compared))


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


def lacks(column: str, columns: Iterable[str]) -> str:
    """Says that no row has a column, and which the rows have, to follow the name of the component that needs it."""
    has = ", ".join(sorted(columns)) or "none of those that a component may need"
    return f"needs the column {column!r}, and no row has it ({MEANING.get(column, column)}); the rows have: {has}"


def _differ(values: Iterator[object]) -> bool:
    return len(set(values)) > 1


def _repeated(groups: Sequence[Group]) -> bool:
    pairs = ([frozenset((c.better, c.worse)) for c in group.comparisons] for group in groups)
    return any(len(set(found)) < len(found) for found in pairs)


def _ranked(groups: Sequence[Group]) -> bool:
    """Whether any responses are in an order, by ranks or by a judged pair."""
    placed = (sum(rank is not None for rank in group.ranks or ()) for group in groups)
    return any(count > 1 for count in placed) or any(not c.tied for group in groups for c in group.comparisons)


_FOUND: dict[str, Callable[[Sequence[Group], Sequence[Comparison]], bool]] = {
    "annotator": lambda _, compared: any(c.annotator is not None for c in compared),
    "difficulty": lambda groups, _: _differ(g.difficulty for g in groups if g.difficulty is not None),
    "margin": lambda _, compared: any(c.margin for c in compared),
    "probability": lambda _, compared: any(c.probability not in (None, 1.0) for c in compared),
    "ranks": lambda groups, _: _ranked(groups),
    "ratings": lambda groups, _: any(v is not None for g in groups for values in g.ratings.values() for v in values),
    "ties": lambda _, compared: any(c.tied for c in compared),
    "topic": lambda groups, _: _differ(g.topic for g in groups),
    "votes": lambda groups, _: _repeated(groups),
    "weight": lambda groups, compared: any(c.weight != 1 for c in compared) or any(g.weight != 1 for g in groups),
}
