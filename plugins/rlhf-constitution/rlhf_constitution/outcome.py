"""The outcome of a principle on a response: a value, not applicable, no opinion, or a failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Ok:
    """How far the response keeps the principle, with what is wrong where it does not."""

    value: float  # 0 to 1
    confidence: float = 1.0  # 0 to 1
    why: str = ""  # what is wrong
    where: str = ""  # the words of the response that are wrong
    fix: str = ""  # what would help

    def __post_init__(self) -> None:
        """Raises ValueError for a number outside 0 to 1."""
        for name in ("value", "confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} should be from 0 to 1, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class NotApplicable:
    """The principle has nothing to do with such a prompt or response; its weight does not count."""


@dataclass(frozen=True)
class Abstain:
    """It applies, and who was asked has no opinion."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """Who was asked gave no usable answer."""

    reason: str


Outcome = Ok | NotApplicable | Abstain | Failed
CLASSES: Mapping[str, Any] = {cls.__name__: cls for cls in (Ok, NotApplicable, Abstain, Failed)}


def to_json(outcome: Outcome) -> dict[str, Any]:
    """A form that JSON holds."""
    return {"is": type(outcome).__name__, **asdict(outcome)}


def from_json(row: Mapping[str, Any]) -> Outcome:
    """The inverse of `to_json`."""
    found: Outcome = CLASSES[row["is"]](**{name: value for name, value in row.items() if name != "is"})
    return found
