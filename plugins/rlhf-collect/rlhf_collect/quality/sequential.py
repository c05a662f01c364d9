"""Wald's sequential test (1945) of a person's answers to items whose answer is known.

After each answer it adds log P(answer | chance) - log P(answer | careful), and raises an alarm once the sum reaches
log(1 / rate). Whoever is careful ever raises it with probability at most `rate` (Ville 1939), however many items come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log


@dataclass(frozen=True)
class Sequential:
    """Careful people are right with probability `careful`, those who do not read with `chance`."""

    careful: float = 0.9
    chance: float = 0.5
    rate: float = 0.01  # chance, at most, that a careful person ever raises an alarm

    def alarm(self, right: Sequence[bool]) -> bool:
        """Whether the sum has ever reached the threshold."""
        total, threshold = 0.0, log(1 / self.rate)
        gain = {True: log(self.chance / self.careful), False: log((1 - self.chance) / (1 - self.careful))}
        for one in right:
            total += gain[one]
            if total >= threshold:
                return True
        return False
