"""What every kind of question can do: read a form, compare with a known answer, name the label that is voted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rlhf_plugins import DataError

Form = Mapping[str, str]


class Unreadable(DataError):
    """A form holds no judgement of the kind."""


class Kind:
    """A kind of question; it has no state. A value counts answers in the item's order, a form as they were shown."""

    name: ClassVar[str]
    least: ClassVar[int] = 2  # answers of an item
    most: ClassVar[int] = 2
    voted: ClassVar[bool] = True  # labels are voted on; otherwise values are averaged

    def read(self, form: Form, sides: Sequence[int]) -> Any:
        """The value of a form; `sides[i]` is the answer that was shown at place i. Raises Unreadable."""
        raise NotImplementedError

    def shown(self, value: Any, sides: Sequence[int]) -> dict[str, str]:
        """The form that a value is read from, to show it again."""
        raise NotImplementedError

    def side(self, value: Any, sides: Sequence[int]) -> int:
        """Which side was chosen: 1 the left, -1 the right, 0 neither, or a kind without sides."""
        return 0

    def label(self, value: Any) -> str:
        """What votes are counted of."""
        raise NotImplementedError

    def parts(self, value: Any) -> dict[str, str]:
        """What is aggregated, each part by itself."""
        return {"": self.label(value)}

    def known(self, word: Any, count: int) -> Any:
        """The value of a label of `count` responses, as a file gives it. Raises DataError with what it should be."""
        raise NotImplementedError

    def can_be_missed(self, known: Any) -> bool:
        """Whether some value is not as good as the known one: otherwise it tells nothing of a person."""
        return True

    def agrees(self, value: Any, known: Any) -> bool:
        """Whether a value is as good as the known one."""
        return self.label(value) == self.label(known)


def whole(form: Form, name: str, lowest: int, highest: int) -> int:
    """A whole number of a form. Raises Unreadable."""
    try:
        number = int(form.get(name, ""))
    except ValueError:
        number = lowest - 1
    if not lowest <= number <= highest:
        raise Unreadable(f"{name} should be a whole number from {lowest} to {highest}, got {form.get(name, '')!r:.40}")
    return number
