"""Which of two answers is better, and by how much: -5 to 5 in favour of the item's first, 0 a tie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_collect.kinds.base import Form, Kind, whole
from rlhf_plugins import DataError

STRONGEST = 5
WORDS = {"a": 1, "b": -1, "tie": 0}


class Pair(Kind):
    """The form's `choice` is -5 to 5 in favour of the left side."""

    name = "pair"

    def read(self, form: Form, sides: Sequence[int]) -> int:
        """Raises Unreadable."""
        choice = whole(form, "choice", -STRONGEST, STRONGEST)
        return choice if sides[0] == 0 else -choice

    def shown(self, value: Any, sides: Sequence[int]) -> dict[str, str]:
        """The `choice`."""
        return {"choice": str(value if sides[0] == 0 else -value)}

    def side(self, value: Any, sides: Sequence[int]) -> int:
        """1 the left, -1 the right, 0 a tie."""
        choice = int(self.shown(value, sides)["choice"])
        return (choice > 0) - (choice < 0)

    def label(self, value: Any) -> str:
        """a, b or tie."""
        return "tie" if value == 0 else "a" if value > 0 else "b"

    def known(self, word: Any, count: int) -> int:
        """The value of the word a, b or tie, or of a number. Raises DataError for anything else."""
        if type(word) is int and abs(word) <= STRONGEST:
            return word
        if not isinstance(word, str) or word not in WORDS:
            raise DataError(f"should be a, b, tie, or -{STRONGEST} to {STRONGEST} in favour of a, got {word!r:.40}")
        return WORDS[word]
