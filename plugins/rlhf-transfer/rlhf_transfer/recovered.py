"""The performance gap recovered by a strong model that learned from a weak one. Arithmetic on arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_plugins import ratio_interval, wilson_interval

Numbers = NDArray[np.float64]


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
    value, low, high = ratio_interval(_sums(prompts, right), _sums(prompts, np.ones_like(right)), seed)
    return Estimate(value, float(np.maximum(low, 0)), float(np.minimum(high, 1)))


def recovered(weak: Numbers, student: Numbers, ceiling: Numbers, prompts: NDArray[np.int64], seed: int = 0) -> Estimate:
    """PGR = (student - weak) / (ceiling - weak) of accuracies (Burns et al. 2023, section 3).

    0 is the weak supervisor, 1 the strong model trained on true labels; it may be below 0, and above 1.

    The interval is that of `ratio_interval` over prompts; of one it is NaN. The ratio is undefined where the ceiling is
    not above the weak supervisor in 97.5% of its resamples: there is no gap to recover.

    Args:
        weak: (pairs,) 1 where the supervisor orders a pair rightly, 1/2 at a tie, 0.
        student: (pairs,) the same of the strong model trained on its labels.
        ceiling: (pairs,) the same of the strong model trained on true labels.
        prompts: (pairs,) codes 0, 1, ...
    """
    gained, gap = _sums(prompts, student - weak), _sums(prompts, ceiling - weak)
    if gap.sum() <= 0:
        return UNDEFINED
    found = Estimate(*ratio_interval(gained, gap, seed))
    return UNDEFINED if len(gap) > 1 and np.isnan(found.low) else found


def _sums(prompts: NDArray[np.int64], values: Numbers) -> Numbers:
    """The sum of the values of each prompt, (prompts,)."""
    return np.bincount(prompts, values).astype(np.float64)
