"""Intervals of a coefficient by the bootstrap over items, or clusters of them (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhf_collect.agreement.counts import Counts, Numbers

SAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate with the 2.5% and 97.5% percentiles of its resamples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


NOTHING = Interval(float("nan"), float("nan"), float("nan"))  # the interval without any item


def bootstrap(
    statistic: Callable[[Counts, Numbers], float], counts: Counts, seed: int = 0, samples: int = SAMPLES
) -> Interval:
    """The statistic of the counts, and of resamples of as many items, or clusters, drawn with replacement."""
    size = len(counts.table)
    if not size:
        return NOTHING
    rng, clusters = np.random.default_rng(seed), counts.clusters or range(size)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    of = [numbers[name] for name in clusters]
    found = [statistic(counts, _drawn(rng, len(numbers))[of]) for _ in range(samples)]
    low, high = np.nanpercentile(found, (2.5, 97.5)) if np.isfinite(found).any() else (np.nan, np.nan)
    return Interval(statistic(counts, np.ones(size)), float(low), float(high))


def _drawn(rng: np.random.Generator, size: int) -> Numbers:
    """How often each item, or cluster, is in a resample."""
    return np.bincount(rng.integers(size, size=size), minlength=size).astype(float)
