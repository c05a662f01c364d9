"""How far a feature vector is from those of training, with a threshold that keeps its rate."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from rlhf_plugins import DataError

Numbers = NDArray[np.float64]
ROWS_PER_FEATURE = 10  # with fewer, principal components take the features' place


@dataclass(frozen=True)
class Distance:
    """Squared Mahalanobis distances to n rows, and what they are for a row that is like them.

    Args:
        mean: (width,).
        whitening: (width, dimensions); its square is the inverse covariance.
        usual: (n,) the distance of each row to the other n - 1, in order.
    """

    mean: Numbers
    whitening: Numbers
    usual: Numbers

    @classmethod
    def of(cls, features: Numbers) -> Distance:
        """Fitted to rows (n, width). Raises DataError where there are too few, or they are all equal.

        The distance of a row to the others has a closed form: with v the row less the mean of all, A = (n - 1) S,
        q = v' A^-1 v and c = n / (n - 1), it is c^2 (n - 2) q / (1 - c q) (Sherman and Morrison 1950).
        """
        count = len(features)
        if count < 2 * ROWS_PER_FEATURE or not np.isfinite(features).all():
            raise DataError(f"a distance needs {2 * ROWS_PER_FEATURE} rows of finite features, got {count}")
        mean = features.mean(0)
        _, sizes, axes = np.linalg.svd(features - mean, full_matrices=False)
        kept = min(count // ROWS_PER_FEATURE, int((sizes > 1e-6 * max(sizes[0], 1e-12)).sum()))
        if not kept:
            raise DataError("all rows have the same features: they say nothing of what is usual")
        root = axes[:kept].T / sizes[:kept]  # (width, kept); root root' is A^-1
        q = (((features - mean) @ root) ** 2).sum(1)
        c = count / (count - 1)
        usual = c * c * (count - 2) * q / np.maximum(1 - c * q, 1e-12)
        return cls(mean, root * np.sqrt(count - 1), np.sort(usual))

    def __call__(self, features: Numbers) -> Numbers:
        """The distance of each row of features (m, width), (m,)."""
        found: Numbers = (((features - self.mean) @ self.whitening) ** 2).sum(1)
        return found

    def threshold(self, rate: float) -> float:
        """The distance that a fresh row like them exceeds at this rate: the ceil((n + 1) (1 - rate))-th smallest.

        Raises DataError where n rows cannot promise the rate.
        """
        return float(self.usual[self._place(rate) - 1])

    def chance(self, beyond: int, count: int, rate: float) -> float:
        """P-value: how likely `beyond` or more of `count` fresh rows like them exceed the threshold of this rate.

        The threshold is the k-th smallest of n distances, so that the share of fresh rows beyond it is
        Beta(n + 1 - k, k) and their number beta-binomial (Wilks 1941). A binomial with the rate itself would take the
        luck of the n rows for a shift.
        """
        place = self._place(rate)
        return float(betabinom.sf(beyond - 1, count, len(self.usual) + 1 - place, place))

    def _place(self, rate: float) -> int:
        """k. Raises DataError where n rows cannot promise the rate."""
        count = len(self.usual)
        place = ceil((count + 1) * (1 - rate))
        if place > count:
            raise DataError(f"{count} rows can promise a rate of {1 / (count + 1):.3g}, not {rate:g}")
        return place
