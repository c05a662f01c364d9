"""The votes on items: records, and the counts that every aggregation starts from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Question: TypeAlias = tuple[int, str]  # an item and a part of it


@dataclass(frozen=True)
class Vote:
    """The vote of one person on one item, or on a part of it."""

    item: int
    person: int
    label: str
    value: Any
    seconds: float = 0.0
    version: int = 1
    part: str = ""  # such as two answers of a ranking
    verified: bool = False  # given with a label shown, and so not independent of it
    further: bool = False  # asked for since the votes before it were divided

    @property
    def question(self) -> Question:
        """What is aggregated."""
        return self.item, self.part


@dataclass(frozen=True)
class Verdict:
    """What an aggregation makes of the votes on one item."""

    label: str | None  # None: undecided
    probabilities: Mapping[str, float]  # label -> its probability, over all labels that the item may have
    agreement: float  # share of the votes that are for the label; of an undecided one, for its most frequent
    weight: float  # how much it should count in a training, 0 to 1
    decided: bool = False  # by a reviewer


def counts(votes: Sequence[Vote]) -> Counter[str]:
    """How many votes each label has."""
    return Counter(vote.label for vote in votes)


def by_question(votes: Sequence[Vote]) -> dict[Question, list[Vote]]:
    """The votes on each item, or part of one, in the order in which they come first."""
    found: dict[Question, list[Vote]] = {}
    for vote in votes:
        found.setdefault(vote.question, []).append(vote)
    return found
