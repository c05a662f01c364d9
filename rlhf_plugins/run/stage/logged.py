"""What a stage logged so far; a checkpoint holds it, and a run that goes on shows it to its hooks again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Logged:
    """What a stage logged so far, and when its last checkpoint was made."""

    calls: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    trainings: int = 0  # that began so far
    kept_at: float = field(default_factory=time.monotonic)
    kept_step: int = 0

    def curves(self) -> dict[str, dict[int, float]]:
        """The number of each step by name; of several the last."""
        found: dict[str, dict[int, float]] = {}
        for step, values in self.calls:
            for name, value in values.items():
                found.setdefault(name, {})[step] = value
        return found
