"""The option `checkpoint`: how often a training is saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

UNITS = {"s": 1, "min": 60, "h": 3600}  # seconds


@dataclass(frozen=True)
class Checkpoint:
    """How often a training is saved, so that a killed run goes on from there; its end deletes what was saved."""

    every: str = "5 min"  # or `30 s`, `1 h`, `100 steps`
    keep: Annotated[int, Ge(1)] = 2

    def __post_init__(self) -> None:
        """Raises ValueError where `every` is no interval."""
        number, _, unit = self.every.partition(" ")
        if unit not in (*UNITS, "steps", "step") or not number.isdecimal() or int(number) < 1:
            raise ValueError(f"every: {self.every!r} is no interval; write one such as `5 min`, `30 s` or `100 steps`")

    @property
    def steps(self) -> int:
        """Optimizer steps between two checkpoints; 0 where `every` is a time."""
        number, _, unit = self.every.partition(" ")
        return int(number) if unit.startswith("step") else 0

    @property
    def seconds(self) -> int:
        """Seconds between two checkpoints; 0 where `every` is a number of steps."""
        number, _, unit = self.every.partition(" ")
        return int(number) * UNITS.get(unit, 0)
