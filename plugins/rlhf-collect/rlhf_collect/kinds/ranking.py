"""An order of K answers: a place for each, 1 the best, equal places tied."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from rlhf_collect.kinds.base import Form, Kind, whole
from rlhf_plugins import DataError


class Ranking(Kind):
    """The form's `place_0`, `place_1`, ... are the places of the answers as they are shown; a value has no gaps."""

    name = "ranking"
    least, most = 3, 9

    def read(self, form: Form, sides: Sequence[int]) -> list[int]:
        """Raises Unreadable."""
        given = [whole(form, f"place_{place}", 1, len(sides)) for place in range(len(sides))]
        return dense([given[sides.index(answer)] for answer in range(len(sides))])

    def shown(self, value: Any, sides: Sequence[int]) -> dict[str, str]:
        """The places."""
        return {f"place_{place}": str(value[answer]) for place, answer in enumerate(sides)}

    def label(self, value: Any) -> str:
        """The numbers of the best answers."""
        return ",".join(str(answer) for answer, place in enumerate(value) if place == 1)

    def parts(self, value: Any) -> dict[str, str]:
        """Every pair of answers: a where the first is better."""
        words = {-1: "a", 0: "tie", 1: "b"}
        pairs = combinations(range(len(value)), 2)
        return {f"{i}-{j}": words[(value[i] > value[j]) - (value[i] < value[j])] for i, j in pairs}

    def known(self, word: Any, count: int) -> list[int]:
        """The ranks, without gaps, from a list with the place of each answer. Raises DataError for anything else."""
        if not isinstance(word, list) or len(word) != count or not all(type(place) is int for place in word):
            raise DataError(f"should be a list with the place of each of {count} responses, got {word!r:.40}")
        return dense(word)

    def can_be_missed(self, known: Any) -> bool:
        """Unless all places are equal."""
        return len(set(known)) > 1

    def agrees(self, value: Any, known: Any) -> bool:
        """Whether any two answers that the known order tells apart are in that order; a tie of them is a miss."""
        pairs = combinations(range(len(known)), 2)
        return all((value[i] - value[j]) * (known[i] - known[j]) > 0 for i, j in pairs if known[i] != known[j])


def dense(places: Sequence[int]) -> list[int]:
    """Without gaps: 2, 4, 2 becomes 1, 2, 1."""
    order = {place: number for number, place in enumerate(sorted(set(places)), 1)}
    return [order[place] for place in places]
