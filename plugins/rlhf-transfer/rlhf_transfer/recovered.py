"""The performance gap recovered by a strong model that learned from a weak one. Arithmetic on arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from rlhf_plugins import wilson_interval

Numbers = NDArray[np.float64]
RESAMPLES = 2000
SURE = 0.025  # share of resamples without a gap, up to which the ratio has an interval


class Estimate(NamedTuple):
    """A number with its 95% interval; all NaN where it is not defined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"))


def share(rate: float, n: int) -> Estimate:
    """A share of n independent ones, with Wilson's interval (1927)."""
    return Estimate(rate, *wilson_interval(rate, n))


def accuracy(right: Numbers, prompts: NDArray[np.int64], seed: int = 0) -> Estimate:
    """The share of pairs in the right order, with an interval as that of `recovered`, whose arguments are these.

    Where all or none are right, which drawn again is the same, the interval is Wilson's over prompts.
    """
    if right.mean() in (0, 1):
        return share(float(right.mean()), len(np.unique(prompts)))
    sums, counts = _sums(prompts, right), _sums(prompts, np.ones_like(right))
    drawn = _draws(len(counts), seed)
    found = _ratio(sums, counts, np.percentile((drawn @ sums) / (drawn @ counts), [2.5, 97.5]))
    return Estimate(found.value, float(np.maximum(found.low, 0)), float(np.minimum(found.high, 1)))


def recovered(weak: Numbers, student: Numbers, ceiling: Numbers, prompts: NDArray[np.int64], seed: int = 0) -> Estimate:
    """PGR = (student - weak) / (ceiling - weak) of accuracies (Burns et al. 2023, section 3).

    0 is the weak supervisor, 1 the strong model trained on true labels; it may be below 0, and above 1.

    The interval is the wider of a bootstrap of prompts, which draws all three together, and of Student's of the
    linearised ratio, since the bootstrap is too narrow for few prompts; of one it is NaN. The ratio is undefined where
    the ceiling is not above the weak supervisor in 97.5% of the resamples: there is no gap to recover.

    Args:
        weak: (pairs,) 1 where the supervisor orders a pair rightly, 1/2 at a tie, 0.
        student: (pairs,) the same of the strong model trained on its labels.
        ceiling: (pairs,) the same of the strong model trained on true labels.
        prompts: (pairs,) codes 0, 1, ...
    """
    gained, gap = _sums(prompts, student - weak), _sums(prompts, ceiling - weak)
    drawn = _draws(len(gap), seed)
    tops, bottoms = drawn @ gained, drawn @ gap
    if gap.sum() <= 0 or (bottoms <= 0).mean() > SURE:
        return UNDEFINED
    return _ratio(gained, gap, np.percentile(tops[bottoms > 0] / bottoms[bottoms > 0], [2.5, 97.5]))


def _ratio(tops: Numbers, bottoms: Numbers, drawn: Numbers) -> Estimate:
    """sum(tops) / sum(bottoms) of prompts, with the wider of an interval by resampling and of Student's."""
    count, value = len(tops), float(tops.sum() / bottoms.sum())
    if count < 2:
        return Estimate(value, float("nan"), float("nan"))
    error = np.sqrt(count / (count - 1) * ((tops - value * bottoms) ** 2).sum()) / bottoms.sum()
    wide = t.ppf(0.975, count - 1) * error
    return Estimate(value, float(min(drawn[0], value - wide)), float(max(drawn[1], value + wide)))


def _sums(prompts: NDArray[np.int64], values: Numbers) -> Numbers:
    """Of each prompt, (prompts,)."""
    return np.bincount(prompts, values).astype(np.float64)


def _draws(count: int, seed: int) -> Numbers:
    """How often each prompt is drawn, (resamples, prompts)."""
    drawn: Numbers = np.random.default_rng(seed).multinomial(count, [1 / count] * count, RESAMPLES).astype(float)
    return drawn
