"""The effect of an intervention, and what the same property goes with in the responses as they are. Numbers alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_plugins import ratio_interval
from rlhf_watch.ab.paired import Interval, Numbers

Codes = NDArray[np.int64]  # 0, 1, ... of prompts
RESAMPLES = 2000


class Number(NamedTuple):
    """A number and its 95% interval; NaN where it cannot be measured, its interval where there is one prompt alone."""

    value: float
    interval: Interval

    @property
    def shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return bool(self.interval.low > 0 or self.interval.high < 0)


UNKNOWN = Number(float("nan"), Interval(float("nan"), float("nan")))


def caused(change: Numbers, dose: Numbers, prompts: Codes, seed: int = 0) -> Number:
    """E[r | do(X = x + dose)] - E[r | do(X = x)] for each unit of X: sum of changes / sum of doses (Pearl 2009, 3.2).

    The interval is that of `ratio_interval` over prompts, whose responses are alike; of one prompt it is not known.

    Args:
        change: (n,) of the reward of a response by the intervention.
        dose: (n,) by how many units it changed X.
        prompts: (n,) codes 0, 1, ... of the responses' prompts.
    """
    if not len(change) or not dose.sum():
        return UNKNOWN
    changes, doses = _sums(prompts, change, dose).T
    value, low, high = ratio_interval(changes, doses, seed)
    return Number(value, Interval(low, high))


class Observed(NamedTuple):
    """How the reward goes with X in the responses as they are."""

    slope: Number  # least squares: reward per unit of X
    correlation: Number  # Pearson's


def observed(reward: Numbers, measure: Numbers, prompts: Codes, seed: int = 0) -> Observed:
    """cov(r, X) / var(X), and the correlation, over all responses, with bootstraps of prompts; unknown of equal X or r.

    Args:
        reward: (n,) of responses.
        measure: (n,) X of them.
        prompts: (n,) codes 0, 1, ...
    """
    if not len(reward) or _equal(measure) or _equal(reward):
        return Observed(UNKNOWN, UNKNOWN)
    r, x = reward - reward.mean(), measure - measure.mean()
    sums = _sums(prompts, np.ones_like(r), x, r, x * x, x * r, r * r)
    cov, x_var, r_var = _moments(_weights(prompts, seed) @ sums)
    (one,), (x_one,), (r_one,) = _moments(sums.sum(0, keepdims=True))
    if len(sums) < 2:
        return Observed(
            Number(float(one / x_one), UNKNOWN.interval),
            Number(float(one / np.sqrt(x_one * r_one)), UNKNOWN.interval),
        )
    slope = Number(float(one / x_one), _interval(cov, x_var))
    scale = np.sqrt(np.maximum(x_var * r_var, 0))
    return Observed(slope, Number(float(one / np.sqrt(x_one * r_one)), _interval(cov, scale)))


def _equal(values: Numbers) -> bool:
    """Whether they differ by no more than rounding in float32."""
    return bool(np.ptp(values) <= 1e-6 * np.abs(values).max())


def _moments(sums: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Covariance and variances by the sums of 1, x, r, x^2, x r and r^2."""
    n, x, r, xx, xr, rr = sums.T
    return xr / n - x * r / n**2, xx / n - (x / n) ** 2, rr / n - (r / n) ** 2


def _sums(prompts: Codes, *columns: Numbers) -> Numbers:
    """The sum of each column over the responses of each prompt, (prompts, columns)."""
    return np.stack([np.bincount(prompts, column) for column in columns], 1)


def _weights(prompts: Codes, seed: int) -> Numbers:
    """How often each prompt is drawn, (resamples, prompts)."""
    count = int(prompts.max()) + 1
    drawn: Numbers = np.random.default_rng(seed).multinomial(count, [1 / count] * count, RESAMPLES).astype(float)
    return drawn


def _interval(top: Numbers, bottom: Numbers) -> Interval:
    """Percentiles of a ratio, without resamples in which it is not defined."""
    defined = bottom > 1e-12 * np.abs(bottom).max()
    low, high = np.percentile(top[defined] / bottom[defined], [2.5, 97.5])
    return Interval(float(low), float(high))
