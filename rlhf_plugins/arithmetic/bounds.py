"""A lower bound on a mean that holds for any distribution on [0, 1]. Arithmetic on arrays."""

from __future__ import annotations

from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp

STAKES = np.arange(1, 40) / 40  # shares of the capital that may be staked, among which it is divided equally


def mean_above(values: NDArray[np.float64], delta: float) -> float:
    """The least mean m in [0, 1] that n independent values of [0, 1] do not contradict at level delta.

    By betting (Waudby-Smith and Ramdas 2024, with a fixed mixture of stakes g): whoever bets against m has the capital
    K(m) = mean_g prod_i (1 + g (x_i / m - 1)), whose expectation is at most 1 where the mean is at most m, so that
    P(K(m) >= 1 / delta) <= delta (Markov). K falls with m, and m solves K(m) = 1 / delta.
    """

    def gained(m: float) -> float:
        return float(logsumexp(np.log1p(STAKES[:, None] * (values / m - 1)).sum(1)) - log(len(STAKES)) + log(delta))

    least, mean = 1e-12, float(values.mean())
    return 0.0 if mean <= least or gained(least) <= 0 else float(brentq(gained, least, mean, xtol=1e-12))
