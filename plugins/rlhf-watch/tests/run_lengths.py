"""How long a CUSUM of independent normal numbers runs before it alarms. Exact integral equations, no simulation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

NODES = 64  # of the quadrature; more change no digit that is shown
Numbers = NDArray[np.float64]


def average_run_length(slack: float, threshold: float, shift: float = 0.0, sides: int = 2) -> float:
    """The mean number of steps until max(0, S + z - k) exceeds h, from S = 0, z normal with mean `shift` (Page 1954).

    L(u) = 1 + L(0) Phi(k - u) + integral_0^h L(y) phi(y - u + k) dy; of both sides 1 / (1 / L+ + 1 / L-) (Van
    Dobben de Bruyn 1968).
    """
    upper = _one_sided(slack - shift, threshold)
    return upper if sides == 1 else 1 / (1 / upper + 1 / _one_sided(slack + shift, threshold))


def alarm_probability(slack: float, threshold: float, steps: int) -> float:
    """The chance that one side alarms within so many steps without a shift: the survivors of each step, summed."""
    places, _, leap, to_zero = _chain(slack, threshold)
    mass, at_zero = np.zeros_like(places), 1.0
    weights = _weights(threshold)
    for _ in range(steps):
        density = at_zero * norm.pdf(places + slack) + leap.T @ (mass * weights)
        at_zero = at_zero * norm.cdf(slack) + float(to_zero @ (mass * weights))
        mass = density
    return 1 - at_zero - float(mass @ weights)


def _one_sided(slack: float, threshold: float) -> float:
    places, weights, leap, to_zero = _chain(slack, threshold)
    size = len(places)
    # unknowns: L at 0, then at the nodes
    matrix = np.eye(size + 1)
    matrix[0, 0] -= norm.cdf(slack)
    matrix[0, 1:] -= weights * norm.pdf(places + slack)
    matrix[1:, 0] -= to_zero
    matrix[1:, 1:] -= leap * weights
    return float(np.linalg.solve(matrix, np.ones(size + 1))[0])


def _chain(slack: float, threshold: float) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Nodes in (0, h), their weights, the density (from, to) of a step between them, the chance of a fall to 0."""
    nodes, _ = np.polynomial.legendre.leggauss(NODES)
    places = (nodes + 1) * threshold / 2
    leap = norm.pdf(places[None, :] - places[:, None] + slack)
    return places, _weights(threshold), leap, norm.cdf(slack - places)


def _weights(threshold: float) -> Numbers:
    weights: Numbers = np.polynomial.legendre.leggauss(NODES)[1] * threshold / 2
    return weights
