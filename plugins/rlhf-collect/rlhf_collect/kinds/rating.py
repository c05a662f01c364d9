"""Ratings from 1 to 7 of each answer in named dimensions (Likert 1932)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_collect.kinds.base import Form, Kind, whole
from rlhf_plugins import DataError

HIGHEST = 7


class Rating(Kind):
    """The form's `DIMENSION_0`, ... are ratings of the answers as they are shown; a value has a list a dimension."""

    name = "rating"
    least, most, voted = 1, 9, False

    def __init__(self, dimensions: Sequence[str] = ("overall",)) -> None:
        for name in dimensions:
            if not name.isidentifier() or len(name) > 40:
                raise DataError(f"a dimension should be a word of letters, digits and underscores, got {name!r:.60}")
        self.dimensions = tuple(dimensions)

    def read(self, form: Form, sides: Sequence[int]) -> dict[str, list[int]]:
        """Raises Unreadable."""
        return {
            name: [whole(form, f"{name}_{sides.index(answer)}", 1, HIGHEST) for answer in range(len(sides))]
            for name in self.dimensions
        }

    def shown(self, value: Any, sides: Sequence[int]) -> dict[str, str]:
        """The ratings."""
        return {f"{name}_{n}": str(rated[answer]) for name, rated in value.items() for n, answer in enumerate(sides)}

    def label(self, value: Any) -> str:
        """Nothing is voted on: ratings are averaged."""
        return ""

    def parts(self, value: Any) -> dict[str, str]:
        """Every dimension of every answer."""
        return {f"{name}_{answer}": str(one) for name, rated in value.items() for answer, one in enumerate(rated)}

    def known(self, word: Any, count: int) -> dict[str, list[int]]:
        """The ratings as they are: a list for each dimension, one per answer. Raises DataError for anything else."""
        if not isinstance(word, dict) or not word.keys() <= set(self.dimensions):
            raise DataError(f"should have ratings of {', '.join(self.dimensions)}, got {word!r:.60}")
        for name, rated in word.items():
            if not isinstance(rated, list) or len(rated) != count or not all(map(_is_rating, rated)):
                raise DataError(f"should have {count} ratings of {name}, 1 to {HIGHEST}, got {rated!r:.40}")
        return word

    def can_be_missed(self, known: Any) -> bool:
        """Unless nothing is rated."""
        return bool(known)

    def agrees(self, value: Any, known: Any) -> bool:
        """Whether no known rating is missed by more than 1."""
        return all(abs(one - value[name][n]) <= 1 for name, rated in known.items() for n, one in enumerate(rated))


def _is_rating(one: Any) -> bool:
    return type(one) is int and 1 <= one <= HIGHEST
