"""Two policies on the same prompts: win rate, permutation test, effect size."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

import rlhf_plugins

Numbers = NDArray[np.float64]
RESAMPLES = 9999
NUMBERS_AT_ONCE = 1_000_000  # of all resamples that are in memory together
ROUNDING = 1e-12  # relative to the numbers


class Counts(NamedTuple):
    """Prompts that were won, tied and lost."""

    won: int
    tied: int
    lost: int

    @property
    def prompts(self) -> int:
        """All of them."""
        return sum(self)

    @property
    def win_rate(self) -> float:
        """(won + tied / 2) / prompts."""
        return (self.won + self.tied / 2) / self.prompts


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


UNKNOWN = Interval(float("nan"), float("nan"))


def counts(ours: Numbers, theirs: Numbers) -> Counts:
    """Counts the prompts that ours wins, ties and loses; scores on the same prompts, both (n,)."""
    return Counts(int((ours > theirs).sum()), int((ours == theirs).sum()), int((ours < theirs).sum()))


def win_rate_interval(found: Counts, level: float = 0.95) -> Interval:
    """The score interval of the win rate (Tango 1998); without ties it is Wilson's (1927).

    It is that of d = P(win) - P(loss), with the win rate (1 + d) / 2: all d with (won - lost - n d)^2 <=
    z^2 n (2 q + d (1 - d)), q the most likely P(loss) given d.
    """
    z2, n = stats.norm.ppf((1 + level) / 2) ** 2, found.prompts
    centre = (found.won - found.lost) / n

    def outside(d: float) -> float:
        return (found.won - found.lost - n * d) ** 2 - z2 * n * (2 * _likely_loss(found, d) + d * (1 - d))

    near = 1e-9  # at the measured difference itself both sides may be 0
    low = float(optimize.brentq(outside, -1.0, centre - near)) if centre > -1 else -1.0
    high = float(optimize.brentq(outside, centre + near, 1.0)) if centre < 1 else 1.0
    return Interval((1 + low) / 2, (1 + high) / 2)


def _likely_loss(found: Counts, d: float) -> float:
    """The root of 2n q^2 + (-won - lost + (2n - won + lost) d) q - lost d (1 - d) = 0: P(loss) given d."""
    n, won, lost = found.prompts, found.won, found.lost
    b, c = -won - lost + (2 * n - won + lost) * d, -lost * d * (1 - d)
    return float((np.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n))


def permutation_test(ours: Numbers, theirs: Numbers, seed: int = 0) -> float:
    """Two-sided p of the mean difference: each prompt's two scores are swapped at random (Pitman 1937)."""
    differences = ours - theirs
    if len(differences) < 2 or not differences.any():  # of one prompt the swap is as far from 0
        return 1.0
    found: Any = stats.permutation_test(
        (differences,),
        lambda values, axis: values.mean(axis),
        permutation_type="samples",
        n_resamples=RESAMPLES,
        vectorized=True,
        batch=at_once(len(differences)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def at_once(size: int) -> int:
    """How many resamples of so many numbers are in memory together."""
    return max(1, NUMBERS_AT_ONCE // size)


def mean_interval(differences: Numbers, seed: int = 0) -> Interval:
    """The interval of the mean difference by `rlhf_plugins.mean_interval`; NaN for one number, which has no spread."""
    return Interval(*rlhf_plugins.mean_interval(differences, seed)[1:]) if len(differences) > 1 else UNKNOWN


def effect_size(differences: Numbers) -> float:
    """The mean difference in standard deviations of the differences, Cohen's d_z (1988); 0 where all are 0.

    Infinite where all are equal, but for rounding.
    """
    mean = float(differences.mean())
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    if spread > ROUNDING * np.abs(differences).max():
        return mean / spread
    return float(np.copysign(np.inf, mean)) if mean else 0.0
