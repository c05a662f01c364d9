"""Statistics that grow while a number departs from its start.

All state is in plain fields, so that a run which goes on has the same statistic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 8.0  # deviations that one rollout may add: a single wild one is no drift
TINY = 1e-3  # added to both numbers of a ratio, so that a share may start at 0


@dataclass
class Cusum:
    """S = max(0, S + z - k) (Page 1954)."""

    slack: float = 0.5
    value: float = 0.0

    def add(self, z: float) -> float:
        """The statistic after one more number in deviations."""
        self.value = max(0.0, self.value + min(z, LARGEST) - self.slack)
        return self.value


@dataclass
class Level:
    """How far a number of each rollout has moved in its bad direction: max(0, s log(v / v_0)), smoothed.

    v_0 is the mean over the first rollouts, and the logarithm is averaged with weights (1 - w)^age.

    Args:
        sign: 1 where a rise is bad, -1 where a fall is.
        warm_up: rollouts that v_0 is taken from.
        weight: w.
    """

    sign: float
    warm_up: int = 10
    weight: float = 0.2
    total: float = 0.0  # the sum of the values in the warm-up
    seen: int = 0
    moved: float = 0.0

    def add(self, value: float) -> float:
        """The statistic; 0 during the warm-up. A number that is not finite changes nothing."""
        if not math.isfinite(value):
            return self.value
        self.seen += 1
        if self.seen <= self.warm_up:
            self.total += value
            return 0.0
        start = max(self.total / self.warm_up, 0.0)
        change = math.log((max(value, 0.0) + TINY) / (start + TINY))
        self.moved += self.weight * (self.sign * change - self.moved)
        return self.value

    @property
    def value(self) -> float:
        """The statistic now; 0 during the warm-up."""
        return max(0.0, self.moved)

    def state_dict(self) -> dict[str, Any]:
        """What changes."""
        return {"total": self.total, "seen": self.seen, "moved": self.moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self.total, self.seen, self.moved = state["total"], state["seen"], state["moved"]


@dataclass
class Away(Level):
    """The level of a distance: sqrt(mean over features of (mean now - mean at first)^2 / variance at first)."""

    sign: float = 1.0
    first: tuple[list[float], list[float]] | None = None  # mean and variance of the first rollout

    def distance(self, features: NDArray[np.float64]) -> float | None:
        """Distance of a rollout's features (B, width) from the first rollout's; None for the first, and without rows.

        Rows that are not finite are left out: one of the first rollout would make every later distance NaN.
        """
        features = features[np.isfinite(features).all(1)]
        if not len(features):
            return None
        if self.first is None:
            self.first = features.mean(0).tolist(), np.maximum(features.var(0), 1e-12).tolist()
            return None
        mean, variance = map(np.array, self.first)
        return float(np.sqrt(((features.mean(0) - mean) ** 2 / variance).mean()))

    def state_dict(self) -> dict[str, Any]:
        """What changes."""
        return {**super().state_dict(), "first": None if self.first is None else [*self.first]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        super().load_state_dict(state)
        self.first = None if state["first"] is None else (state["first"][0], state["first"][1])


@dataclass
class Gap:
    """A CUSUM of how much less responses are worth than their reward predicts.

    Over the first audited responses the true worth is regressed on the reward, g = a + b r + e. Selecting for r makes g
    grow by b times as much and leaves e at 0 (regression to the mean); e falls where the reward is exploited. Of n
    audited responses of a rollout with mean reward r,

        z = (a + b r - g - c SE(r)) sqrt(n) / sd(e),   SE(r)^2 = var(e) / N (1 + (r - r_0)^2 / var(r_0))

    so that the error of the regression on its N responses does not add up over a long run.

    Args:
        first: N, audited responses that the regression is fitted to.
        band: c.
        cusum: the cusum of z.
    """

    first: int
    band: float = 3.0
    cusum: Cusum = field(default_factory=lambda: Cusum(0.25))
    pairs: list[tuple[float, float]] = field(default_factory=list)  # reward and worth
    fit: Regression | None = None

    @property
    def wanted(self) -> int:
        """Responses that the regression still needs."""
        return max(0, self.first - len(self.pairs))

    @property
    def value(self) -> float:
        """The statistic now."""
        return self.cusum.value

    def add(self, rewards: Sequence[float], worths: Sequence[float]) -> float:
        """The statistic after the audited responses of one rollout; 0 until there is a regression."""
        found = [pair for pair in zip(rewards, worths, strict=True) if all(map(math.isfinite, pair))]
        if self.fit is None:
            self.pairs += found
            self.fit = None if self.wanted else Regression.of(self.pairs)
        elif found:
            reward, worth = np.mean(found, 0)
            missing = self.fit.predict(reward) - worth - self.band * self.fit.error(reward)
            return self.cusum.add(missing * math.sqrt(len(found)) / self.fit.spread)
        return self.cusum.value

    def state_dict(self) -> dict[str, Any]:
        """What changes."""
        return {"value": self.cusum.value, "pairs": [list(pair) for pair in self.pairs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self.cusum.value = state["value"]
        self.pairs = [(float(reward), float(worth)) for reward, worth in state["pairs"]]
        self.fit = Regression.of(self.pairs) if len(self.pairs) >= self.first else None


@dataclass(frozen=True)
class Regression:
    """g = a + b r + e by least squares; a negative b is taken as 0: such a reward promises nothing."""

    slope: float
    centre: tuple[float, float]  # mean reward and worth
    spread: float  # deviation of e
    variance: float  # of the rewards
    count: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Regression:
        """Fitted to pairs of reward and worth."""
        rewards, worths = np.array(pairs, dtype=float).T
        variance = max(float(rewards.var()), 1e-12)
        slope = max(0.0, float(np.cov(rewards, worths, ddof=0)[0, 1]) / variance)
        rest = worths - slope * rewards
        return cls(
            slope, (float(rewards.mean()), float(worths.mean())), max(float(rest.std()), 1e-9), variance, len(pairs)
        )

    def predict(self, reward: float) -> float:
        """The worth that goes with a reward."""
        return self.centre[1] + self.slope * (reward - self.centre[0])

    def error(self, reward: float) -> float:
        """The standard error of that prediction."""
        return self.spread * math.sqrt((1 + (reward - self.centre[0]) ** 2 / self.variance) / self.count)
