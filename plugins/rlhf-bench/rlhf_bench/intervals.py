"""Means over seeds and prompts with their uncertainty, and what may be called a difference."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.float64]  # (seeds, prompts)
RESAMPLES = 4000


class Estimate(NamedTuple):
    """A mean with its 95% interval, and how likely a mean this far from 0 would be if it were 0; None: not known."""

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def estimate(scores: Any, seed: int = 0) -> Estimate:
    """The mean of (seeds, prompts) scores, with the wider of two intervals and the larger of their two p-values.

    One is the bootstrap that resamples seeds and prompts independently (Owen 2007), p = (1 + 2 min(n_below, n_above)) /
    (1 + n); with few seeds it is too narrow. The other is Student's of the means over prompts, which is right for few
    seeds and knows nothing of prompts. One seed tells nothing of how much seeds differ, so that it has no interval.
    Where seeds have other numbers of prompts, since some have no score, each seed's mean is all that is compared.
    """
    if len({np.size(of_seed) for of_seed in scores}) > 1:
        scores = [[np.mean(of_seed)] for of_seed in scores]
    scores = np.atleast_2d(np.asarray(scores, dtype=float))
    mean = float(scores.mean())
    seeds, prompts = scores.shape
    if seeds < 2:
        return Estimate(mean)
    by_seed, by_prompt = _drawn(seeds, prompts, seed)
    means = np.einsum("bs,sp,bp->b", by_seed, scores, by_prompt, optimize=True)
    return _wider(mean, means, scores.mean(1))


@lru_cache(maxsize=4)  # a page compares hundreds of tables of few shapes
def _drawn(seeds: int, prompts: int, seed: int) -> tuple[Scores, Scores]:
    """How much of each resample is of each seed (resamples, seeds), and of each prompt (resamples, prompts)."""
    rng = np.random.default_rng(seed)
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    return by_seed, rng.multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES) / prompts


def resampled(values: Any, seed: int = 0) -> Estimate:
    """The mean of independent values with the wider of two intervals and the larger p-value, as `estimate`; not of one.

    One is the percentile interval by resampling the values, which is too narrow for a dozen of them; the other is
    Student's.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return Estimate(float(values.mean()))
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    return _wider(float(values.mean()), means, values)


def _wider(mean: float, means: NDArray[np.float64], values: NDArray[np.float64]) -> Estimate:
    """By resampled means, and by Student's test of the values, of which the more careful one counts."""
    low, high = np.quantile(means, (0.025, 0.975))
    p = _p(means)
    if np.ptp(values) > 1e-12:
        student = stats.ttest_1samp(values, 0.0)
        interval = student.confidence_interval(0.95)
        low, high, p = min(low, interval.low), max(high, interval.high), max(p, student.pvalue)
    return Estimate(mean, float(low), float(high), float(p))


def _p(means: NDArray[np.float64]) -> float:
    """(1 + 2 min(n_below, n_above)) / (1 + n) of resampled means, at most 1."""
    beyond = min((means <= 0).sum(), (means >= 0).sum())
    return min(1.0, float(1 + 2 * beyond) / (1 + len(means)))
