"""AI feedback as arithmetic: which of k scored responses make a pair, and with which soft label.

A pair (i, j) is kept where s_i > s_j + gap (or i loses fewer gates), and its soft label is sigma((s_i - s_j) /
temperature), clamped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

from pydantic import Field

from rlhf_constitution.constitution import Scored


@dataclass(frozen=True)
class Labels:
    """How a difference of scores becomes a label."""

    gap: Annotated[float, Field(ge=0, lt=1, description="epsilon: a pair needs s_i > s_j + gap")] = 0.1
    temperature: Annotated[float, Field(gt=0, description="of soft labels, in scores")] = 0.2
    clamp: Annotated[float, Field(gt=0.5, le=1, description="the largest soft label")] = 0.95
    confidence: Annotated[float, Field(ge=0, le=1, description="the least confidence of both responses")] = 0.0

    def probability(self, difference: float) -> float:
        """How likely the better response is better, at least 0.5 and at most the clamp."""
        return min(self.clamp, 1 / (1 + math.exp(-min(difference / self.temperature, 50.0))))


@dataclass(frozen=True)
class Pair:
    """Two responses of a prompt, by their places, the better one first."""

    better: int
    worse: int
    difference: float  # P of the better less P of the worse; negative where a gate decides against P
    by_gate: bool
    probability: float
    confidence: float


def pairs(scored: Sequence[Scored], labels: Labels) -> list[Pair]:
    """The pairs of a prompt's responses that make a label, the clearest first; one that is not scored is in none."""
    places = [i for i, one in enumerate(scored) if one.satisfaction is not None and one.confidence >= labels.confidence]
    found = [pair for a, b in combinations(places, 2) if (pair := _pair(scored, a, b, labels))]
    return sorted(found, key=lambda pair: (not pair.by_gate, -pair.difference))


def _pair(scored: Sequence[Scored], a: int, b: int, labels: Labels) -> Pair | None:
    better, worse = (a, b) if scored[a].key >= scored[b].key else (b, a)
    high, low = scored[better], scored[worse]
    difference = (high.satisfaction or 0.0) - (low.satisfaction or 0.0)
    by_gate = high.key[:-1] != low.key[:-1]
    if not by_gate and difference <= labels.gap:
        return None
    label = labels.clamp if by_gate else labels.probability(difference)
    return Pair(better, worse, difference, by_gate, label, min(high.confidence, low.confidence))
