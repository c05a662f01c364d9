"""The rows that a loader leaves out, and those that it refuses: their number, the reasons, the first places of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rlhf_plugins.errors import DataError

FIRST = 3  # places that are kept of each reason
NAMED = 10  # faults of rows in a message, and places of each


class Dropped(dict[str, int]):
    """Reason -> count, as `contract.rows.Data.dropped` holds it, with the first places of each and the rows read.

    Args:
        gathers: go on where a row is refused, so that `refuse` names all of them; else the first one raises DataError.
    """

    def __init__(self, gathers: bool = False) -> None:
        super().__init__()
        self.gathers = gathers
        self.faults: dict[str, tuple[str, list[str]]] = {}  # what is wrong -> the first message, and all places
        self.places: dict[str, list[str]] = {}
        self.rows = 0  # read, whether kept or not
        self.shapes: dict[str, int] = {}  # of rows, each in words, with their number
        self.judged_again: list[tuple[int, ...]] = []  # of each pair in several rows: how many say what

    def add(self, reason: str, where: str) -> None:
        """Counts the row at `where` as left out."""
        self[reason] = self.get(reason, 0) + 1
        if len(places := self.places.setdefault(reason, [])) < FIRST:
            places.append(where)

    @contextmanager
    def row(self, where: str) -> Iterator[None]:
        """Reads the row at `where`, and keeps what is wrong with it. Raises DataError where nothing is gathered."""
        try:
            yield
        except DataError as error:
            if not self.gathers:
                raise
            message = str(error)
            self.faults.setdefault(message.removeprefix(where), (message, []))[1].append(where)

    def refuse(self, source: str) -> None:
        """Raises DataError with the number of the rows that were refused, and the first of them; else does nothing."""
        if not self.faults:
            return
        lines = [_with_others(*fault) for fault in self.faults.values()]
        if len(lines) > 1:
            count, more = sum(len(places) for _, places in self.faults.values()), len(lines) - NAMED
            rest = [f"and {more} more faults of other kinds"] * (more > 0)
            lines = [f"{source}: {count} rows cannot be read", *(f"  {line}" for line in (*lines[:NAMED], *rest))]
        raise DataError("\n".join(lines))

    def note_shape(self, shape: str) -> None:
        """Counts a row of that shape."""
        self.shapes[shape] = self.shapes.get(shape, 0) + 1

    def include(self, other: Dropped) -> None:
        """Adds what another source left out."""
        for reason, count in other.items():
            self[reason] = self.get(reason, 0) + count
            self.places[reason] = (self.places.get(reason, []) + other.places.get(reason, []))[:FIRST]
        for shape, count in other.shapes.items():
            self.shapes[shape] = self.shapes.get(shape, 0) + count
        self.judged_again += other.judged_again
        self.rows += other.rows


def reasons(dropped: Mapping[str, int]) -> str:
    """Counts and reasons in a line: `2 repeated row, 1 no rating`."""
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items())


def _with_others(message: str, places: list[str]) -> str:
    """What is wrong with a row, and the other rows with which the same is wrong."""
    others = [Path(place).name for place in places[1:]]
    if not others:
        return message
    named = ", ".join(others[: NAMED - 1]) + ", ..." * (len(others) >= NAMED)
    return f"{message} (and {len(others)} more row{'s' * (len(others) > 1)} like it: {named})"
