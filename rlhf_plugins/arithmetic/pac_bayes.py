"""PAC-Bayes bounds on the error of a linear correction of a score. Arithmetic on arrays."""

from __future__ import annotations

from math import log, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, rel_entr
from scipy.stats import norm

Numbers = NDArray[np.float64]
SCALES = tuple(2.0**power for power in range(-14, 6))  # sigma of the prior, among which the data may choose
DIRECTIONS = 64  # of the features, along which the posterior may leave the prior
STEPS = 8  # of Newton's method; the bound holds wherever it ends


def kl_inverse(q: float, c: float) -> float:
    """kl^-1(q, c) = max{p >= q: q log(q / p) + (1 - q) log((1 - q) / (1 - p)) <= c}, c in nats (Seeger 2002)."""

    def beyond(p: float) -> float:
        return float(rel_entr(q, p) + rel_entr(1 - q, 1 - p)) - c

    top = 1 - 1e-15
    return 1.0 if beyond(top) <= 0 else float(brentq(beyond, q, top, xtol=1e-15)) if c > 0 else q


def pac_bayes_kl(risk: float, kl: float, m: int, delta: float) -> float:
    """kl^-1(risk, (KL(Q || P) + log(2 sqrt(m) / delta)) / m) (Maurer 2004, theorem 5).

    With probability 1 - delta over m >= 8 independent examples, for all Q at once, the risk of a predictor drawn from Q
    is at most that. P must not depend on the examples.

    Args:
        risk: on the examples, expected over Q.
        kl: in nats.
        m: examples.
        delta: probability that the bound does not hold.
    """
    return kl_inverse(risk, (kl + log(2 * sqrt(m) / delta)) / m)


class Certified(NamedTuple):
    """A posterior N(mean, sigma^2 I) of corrections of the score, with its bound."""

    bound: float  # on the error of a score that is drawn from it
    risk: float  # that error on the examples
    kl: float  # nats to the prior
    sigma: float
    mean: Numbers  # (width,)


def certify(gap: Numbers, features: Numbers, delta: float, scales: tuple[float, ...] = SCALES) -> Certified:
    """The smallest bound on the error of sign(gap + <v, features>), v ~ N(mean, sigma^2 I), mean fitted to the pairs.

    The prior is N(0, sigma^2 I): the score as it is, with noise. Each sigma has delta / len(scales), so that the best
    may be taken (a union bound). The error of a pair is Phi(-(gap + <mean, features>) / (sigma |features|)) in closed
    form (Langford and Shawe-Taylor 2002), KL is |mean|^2 / (2 sigma^2). `mean` is 0, or minimises the logistic loss
    plus KL / m along the widest directions.

    Args:
        gap: (m,) of the scores, better less worse.
        features: (m, width) of the better less those of the worse response.
        delta: probability that the bound does not hold.
        scales: the scales of sigma, fixed before the pairs are seen.
    """
    m, width = features.shape
    basis = np.linalg.svd(features, full_matrices=False)[2][:DIRECTIONS]  # (directions, width)
    inside = features @ basis.T
    length = np.linalg.norm(features, axis=1)
    found = []
    for sigma in scales:
        for mean in (np.zeros(len(basis)), _fitted(gap, inside, sigma)):
            risk = float(_errors(gap + inside @ mean, sigma * length).mean())
            kl = float(mean @ mean) / (2 * sigma**2)
            bound = pac_bayes_kl(risk, kl, m, delta / len(scales))
            found.append(Certified(bound, risk, kl, sigma, mean @ basis))
    return min(found, key=lambda one: one.bound)


def _errors(margin: Numbers, deviation: Numbers) -> Numbers:
    """P(margin + deviation * N(0, 1) <= 0); where the deviation is 0, 1 unless the margin is positive."""
    noisy = deviation > 0
    safe = np.where(noisy, deviation, 1.0)
    return np.where(noisy, norm.cdf(-margin / safe), margin <= 0).astype(float)


def _fitted(gap: Numbers, features: Numbers, sigma: float) -> Numbers:
    """argmin_v of the mean of log(1 + exp(-(gap + features v))), plus |v|^2 / (2 sigma^2 m): damped Newton steps."""
    m, penalty = len(gap), 1 / (sigma**2 * len(gap))
    mean, loss = np.zeros(features.shape[1]), float(np.logaddexp(0, -gap).mean())
    for _ in range(STEPS):
        wrong = expit(-(gap + features @ mean))
        slope = penalty * mean - features.T @ wrong / m
        curvature = (features.T * (wrong * (1 - wrong))) @ features / m + penalty * np.eye(len(mean))
        step = np.linalg.solve(curvature, slope)
        for share in (1.0, 0.5, 0.25, 0.125):
            tried = mean - share * step
            now = float(np.logaddexp(0, -(gap + features @ tried)).mean() + penalty * (tried @ tried) / 2)
            if now < loss:
                mean, loss = tried, now
                break
        else:
            break
    return mean
