"""The votes on items: records, and the counts that every aggregation starts from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Vote:
    """What one person said of one item."""

    item: int
    person: int
    label: str
    value: Any
    seconds: float = 0.0
    version: int = 1


@dataclass(frozen=True)
class Verdict:
    """What an aggregation makes of the votes on one item."""

    label: str | None  # None: undecided
    probabilities: Mapping[str, float]  # of each label that it may have
    agreement: float  # share of the votes that are for the label; of an undecided one, for its most frequent
    weight: float  # how much it should count in a training, 0 to 1


def counts(votes: list[Vote]) -> Counter[str]:
    """How many votes each label has."""
    return Counter(vote.label for vote in votes)


def by_item(votes: list[Vote]) -> dict[int, list[Vote]]:
    """The votes of each item, in the order in which items come first."""
    found: dict[int, list[Vote]] = {}
    for vote in votes:
        found.setdefault(vote.item, []).append(vote)
    return found
