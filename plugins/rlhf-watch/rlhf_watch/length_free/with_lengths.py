"""The data format `with_lengths`: rows of another format, with the words of each response as the rating `length`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from rlhf_plugins import Base, Data, DataFormat, Group, hookimpl, uses


@dataclass(frozen=True)
class WithLengths(DataFormat, like="rows"):
    """Other rows, whose responses are rated by their number of words."""

    rows: DataFormat = uses("data_format", tag="format")

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError as the other format does."""
        data = self.rows.load(base, seed)
        judged: dict[str, Any] = {
            name: _rated(getattr(data, name)) for name in ("train", "test", "out_of_distribution")
        }
        return replace(data, **judged)

    def known_gold(self) -> bool | None:
        """Whether a gold reward comes with the rows of the other format; None is unknown."""
        return self.rows.known_gold()

    def known_columns(self) -> frozenset[str] | None:
        """Which of `COLUMNS` the rows of the other format have, and ratings; None is unknown."""
        known = self.rows.known_columns()
        return None if known is None else known | {"ratings"}


def _rated(groups: Iterable[Group]) -> tuple[Group, ...]:
    return tuple(
        replace(group, ratings={**group.ratings, "length": tuple(float(_words(text)) for text in group.responses)})
        for group in groups
    )


def _words(text: object) -> int:
    """The number of words of a text, or of all messages together."""
    if isinstance(text, str):
        return len(text.split())
    return sum(len(str(message.get("content", "")).split()) for message in text) if isinstance(text, list) else 0


@hookimpl
def register_data_format() -> dict[str, type[DataFormat]]:
    """The format of this file."""
    return {"with_lengths": WithLengths}
