"""The rows that a loader leaves out: their number, the reasons, and the first places of each."""

from __future__ import annotations

from collections.abc import Mapping

FIRST = 3  # places that are kept of each reason


class Dropped(dict[str, int]):
    """Reason -> count, as `PreferenceData.dropped` holds it, with the first places of each and the rows read."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, list[str]] = {}
        self.rows = 0  # read, whether kept or not
        self.shapes: dict[str, int] = {}  # of rows, each in words, with their number

    def add(self, reason: str, where: str) -> None:
        """Counts the row at `where` as left out."""
        self[reason] = self.get(reason, 0) + 1
        if len(places := self.places.setdefault(reason, [])) < FIRST:
            places.append(where)

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
        self.rows += other.rows


def reasons(dropped: Mapping[str, int]) -> str:
    """Counts and reasons in a line: `2 repeated row, 1 no rating`."""
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items())
