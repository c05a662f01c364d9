"""How a study is run. Set when it is made; the database keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from rlhf_plugins import DataError


@dataclass(frozen=True)
class Settings:
    """The numbers of a study.

    Raises:
        DataError: one of them is out of its range.
    """

    kind: str = "pair"
    dimensions: tuple[str, ...] = ()  # names of what a rating rates; empty for other kinds
    votes: int = 3  # people who judge an item, before it is known whether they are divided
    most_votes: int = 7  # people who judge an item on which they are divided, at most
    lease_seconds: float = 1800.0  # after which an item that was given out goes to somebody else
    gold_share: float = 0.1  # chance that a person's next item is one with a known answer
    gold_share_first: float = 0.3  # the same chance for a person's first 20 items
    pass_mark: float = 0.7  # share of the training items that a person has to answer rightly
    seed: int = 0  # with which sides and the order of items are drawn

    def __post_init__(self) -> None:
        if not 1 <= self.votes <= self.most_votes:
            raise DataError(f"votes should be between 1 and most_votes, got {self.votes} and {self.most_votes}")
        if not self.lease_seconds > 0:
            raise DataError(f"lease_seconds should be above 0, got {self.lease_seconds}")
        for name in ("gold_share", "gold_share_first", "pass_mark"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} should be between 0 and 1, got {getattr(self, name)}")

    def record(self) -> dict[str, Any]:
        """Returns the fields as a dictionary that JSON can hold."""
        return {**asdict(self), "dimensions": list(self.dimensions)}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Settings:
        """From JSON; what a later version added has its default."""
        known = {field.name for field in fields(cls)}
        found = {name: value for name, value in record.items() if name in known}
        return cls(**{**found, "dimensions": tuple(found.get("dimensions", ()))})
