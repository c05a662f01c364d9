"""Accuracy over topics or prompts, and how much more often one model is right than another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
RESAMPLES = 4000


class Estimate(NamedTuple):
    """A mean over pairs and its 95% interval over units."""

    mean: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def over_units(values: Numbers, units: NDArray[np.int_], seed: int = 0) -> Estimate:
    """The mean over pairs; its percentile bootstrap draws whole units with replacement (Efron and Tibshirani 1993).

    Args:
        values: (pairs,) whether each is right, or how much more often one model is right than another.
        units: (pairs,) the topic or prompt of each, from 0.
        seed: of the resampling.
    """
    count = int(units.max()) + 1
    sums, sizes = np.bincount(units, values, count), np.bincount(units, minlength=count)
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))


def right(gaps: Numbers) -> Numbers:
    """1 where the chosen response has the higher reward, 1/2 at a tie: (seeds, pairs) -> mean over seeds (pairs,)."""
    return np.where(gaps == 0, 0.5, gaps > 0).mean(0)
