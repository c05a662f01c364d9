"""The training responses that a reward model's features place nearest to a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_plugins import DataError

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbours:
    """Rows with a feature vector and a reward each.

    Args:
        pairs: a prompt and a response of each row.
        features: (rows, width), in deviations of the rows.
        deviation: (width,) 1 where all rows are equal.
        rewards: (rows,).
    """

    pairs: list[tuple[Any, Any]]
    features: Numbers
    deviation: Numbers
    rewards: Numbers

    @classmethod
    def of(cls, judge: Any, pairs: list[tuple[Any, Any]]) -> Neighbours:
        """Scores rows of a prompt and a response. Raises DataError where the reward model gives no features."""
        found = judge.predict(judge.encode(*map(list, zip(*pairs, strict=True))))
        if found.features is None:
            raise DataError("this reward model gives no features, by which responses could be near")
        features = found.features.double().numpy()
        spread = features.std(0)
        deviation = np.where(spread > 1e-9, spread, 1.0)
        return cls(pairs, features / deviation, deviation, found.reward.double().numpy())

    def nearest(self, features: Numbers, count: int) -> list[tuple[Any, Any, float, float]]:
        """Prompt, response, reward and distance in deviations of the rows nearest to features (width,)."""
        distances = np.linalg.norm(self.features - features / self.deviation, axis=1) / len(features) ** 0.5
        order = distances.argsort(kind="stable")[:count]
        return [(*self.pairs[row], float(self.rewards[row]), float(distances[row])) for row in order]
