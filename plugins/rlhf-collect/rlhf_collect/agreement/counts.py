"""Labels as counts: what every coefficient is computed of."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rlhf_plugins import DataError

Numbers: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """How many annotators gave each item each category."""

    table: Numbers  # (items, categories)
    categories: tuple[Any, ...]  # in their order, which matters where they are ordinal or numbers
    clusters: tuple[Hashable, ...] = ()  # of each item: a bootstrap draws a cluster whole; empty: each is its own

    def rated(self, least: int = 2) -> Counts:
        """The items that at least so many annotators labelled."""
        return self._where(self.table.sum(1) >= least)

    def exactly(self, annotators: int) -> Counts:
        """The items that exactly so many annotators labelled."""
        return self._where(self.table.sum(1) == annotators)

    def _where(self, kept: npt.NDArray[np.bool_]) -> Counts:
        return Counts(self.table[kept], self.categories, tuple(compress(self.clusters, kept)))


def count(
    items: Iterable[Sequence[Hashable]],
    categories: Sequence[Hashable] | None = None,
    clusters: Iterable[Hashable] = (),
) -> Counts:
    """The labels of each item, missing ones left out. Raises DataError for a label that is no category."""
    given = [list(labels) for labels in items]
    known = sorted({label for labels in given for label in labels}) if categories is None else categories  # type: ignore[type-var]
    places = {label: place for place, label in enumerate(known)}
    table = np.zeros((len(given), len(places)))
    for row, labels in enumerate(given):
        for label in labels:
            if label not in places:
                raise DataError(f"{label!r} is no category (known: {', '.join(map(str, known))})")
            table[row, places[label]] += 1
    return Counts(table, tuple(known), tuple(clusters))


def confusion(first: Sequence[Hashable], second: Sequence[Hashable], categories: Sequence[Hashable]) -> Numbers:
    """(categories, categories): how often the first gave the row's label where the second gave the column's."""
    places = {label: place for place, label in enumerate(categories)}
    table = np.zeros((len(places), len(places)))
    for one, other in zip(first, second, strict=True):
        table[places[one], places[other]] += 1
    return table
