"""How many prompts a comparison needs, and what it can show with those that it has. Formulas of proportions only."""

from __future__ import annotations

from math import ceil, log2, sqrt

from scipy.stats import norm


def _z(alpha: float) -> float:
    return float(norm.ppf(1 - alpha / 2))


def size_for_win_rate(rate: float, power: float = 0.8, alpha: float = 0.05, ties: float = 0.0) -> float:
    """Prompts needed to tell a win rate from 1/2, not rounded; infinite at 1/2 itself.

    ((z_{alpha/2} sqrt(1 - t) + z_power sqrt(1 - t - d^2)) / d)^2 with d = 2 rate - 1 and a share t of ties, the
    paired form of Connor (1987), and at least `least_prompts`.
    """
    return max(_normal_size(rate, power, alpha, ties), least_prompts(alpha, ties)) if rate != 0.5 else float("inf")


def least_prompts(alpha: float, ties: float = 0.0) -> float:
    """With fewer no sign test is below alpha: of k prompts that are not tied its p-value is at least 2 / 2^k."""
    return ceil(log2(2 / alpha)) / (1 - ties) if ties < 1 else float("inf")


def _normal_size(rate: float, power: float, alpha: float, ties: float) -> float:
    d, decided = abs(2 * rate - 1), 1 - ties
    return float(((_z(alpha) * sqrt(decided) + norm.ppf(power) * sqrt(max(decided - d * d, 0.0))) / d) ** 2)


def power_for_win_rate(n: float, rate: float, alpha: float = 0.05, ties: float = 0.0) -> float:
    """The inverse: the chance that n prompts tell a win rate from 1/2."""
    if n < least_prompts(alpha, ties):
        return 0.0
    d, decided = abs(2 * rate - 1), 1 - ties
    spread = sqrt(max(decided - d * d, 1e-12))
    return float(norm.cdf((d * sqrt(n) - _z(alpha) * sqrt(decided)) / spread))


def smallest_win_rate(n: float, power: float = 0.8, alpha: float = 0.05, ties: float = 0.0) -> float:
    """The smallest win rate above 1/2 that n prompts show with this power; 1 less half the ties where none does."""
    from scipy.optimize import brentq

    highest = 1 - ties / 2
    if n < size_for_win_rate(highest, power, alpha, ties):
        return highest
    return float(brentq(lambda rate: _normal_size(rate, power, alpha, ties) - n, 0.5 + 1e-6, highest))
