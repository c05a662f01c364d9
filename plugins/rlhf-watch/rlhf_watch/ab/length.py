"""The win rate that two policies would have if their responses were equally long."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from rlhf_watch.ab.paired import Numbers

PRIOR = 10.0  # deviation of the coefficients' prior, so that a policy that always wins has a finite estimate


class LengthControlled(NamedTuple):
    """A win rate at equal length with its 95% interval, and how the odds go with length."""

    win_rate: float
    low: float
    high: float
    slope: float  # phi: the change of the log odds per unit of tanh(l / s)


def length_controlled(ours: Numbers, theirs: Numbers, longer: Numbers) -> LengthControlled:
    """sigma(theta) of logit P(win) = theta + phi tanh(l / s), s the deviation of l (Dubois et al. 2024).

    Their term for the difficulty of a prompt is left out, since it needs many policies. A tie is half a win and half
    a loss. The interval is by the curvature at the estimate.

    Args:
        ours: (n,) scores.
        theirs: (n,) scores on the same prompts.
        longer: (n,) by how many words our responses are longer.
    """
    from sklearn.linear_model import LogisticRegression

    spread = float(longer.std()) or 1.0
    columns = np.stack([np.ones_like(longer), np.tanh(longer / spread)], 1)  # (n, 2)
    won = np.where(ours == theirs, 0.5, (ours > theirs).astype(float))
    twice = np.concatenate([columns, columns])
    labels = np.repeat([1, 0], len(won))
    fit = LogisticRegression(C=PRIOR**2, fit_intercept=False, tol=1e-8, max_iter=1000)
    theta, phi = fit.fit(twice, labels, np.concatenate([won, 1 - won])).coef_[0]
    chance = expit(columns @ [theta, phi])
    curvature = (columns * (chance * (1 - chance))[:, None]).T @ columns + np.eye(2) / PRIOR**2
    error = norm.ppf(0.975) * np.sqrt(np.linalg.inv(curvature)[0, 0])
    rate, low, high = expit([theta, theta - error, theta + error])
    return LengthControlled(float(rate), float(low), float(high), float(phi))
