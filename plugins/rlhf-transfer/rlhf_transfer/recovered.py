"""The performance gap recovered by a strong model that learned from a weak one. Arithmetic on arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    """The share of pairs in the right order, with a bootstrap of prompts; the arguments are those of `recovered`.

    Where all or none are right, which drawn again is the same, the interval is Wilson's over prompts.
    """
    if right.mean() in (0, 1):
        return share(float(right.mean()), len(np.unique(prompts)))
    sums, counts = np.bincount(prompts, right), np.bincount(prompts)
    drawn = _draws(len(counts), seed)
    low, high = np.percentile((drawn @ sums) / (drawn @ counts), [2.5, 97.5])
    return Estimate(float(right.mean()), float(low), float(high))


def recovered(weak: Numbers, student: Numbers, ceiling: Numbers, prompts: NDArray[np.int64], seed: int = 0) -> Estimate:
    """PGR = (student - weak) / (ceiling - weak) of accuracies (Burns et al. 2023, section 3).

    0 is the weak supervisor, 1 the strong model trained on true labels; it may be below 0, and above 1.

    The interval is a bootstrap of prompts, which draws all three together. The ratio is undefined where the ceiling is
    not above the weak supervisor in 97.5% of the resamples: there is no gap to recover.

    Args:
        weak: (pairs,) 1 where the supervisor orders a pair rightly, 1/2 at a tie, 0.
        student: (pairs,) the same of the strong model trained on its labels.
        ceiling: (pairs,) the same of the strong model trained on true labels.
        prompts: (pairs,) codes 0, 1, ...
    """
    gained = np.bincount(prompts, student - weak)
    gap = np.bincount(prompts, ceiling - weak)
    drawn = _draws(len(gap), seed)
    tops, bottoms = drawn @ gained, drawn @ gap
    if gap.sum() <= 0 or (bottoms <= 0).mean() > SURE:
        return UNDEFINED
    low, high = np.percentile(tops[bottoms > 0] / bottoms[bottoms > 0], [2.5, 97.5])
    return Estimate(float(gained.sum() / gap.sum()), float(low), float(high))


def _draws(count: int, seed: int) -> Numbers:
    """How often each prompt is drawn, (resamples, prompts)."""
    drawn: Numbers = np.random.default_rng(seed).multinomial(count, [1 / count] * count, RESAMPLES).astype(float)
    return drawn
