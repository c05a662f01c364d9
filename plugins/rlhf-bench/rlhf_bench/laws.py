"""Gao, Schulman and Hilton's forms of over-optimisation (2022), fitted to (KL, gain) points.

With d = sqrt(KL) the gain in gold over the start is d (a - b d) for best-of-n, with its top at d = a / (2 b), and
d (a - b log d) for reinforcement learning, with its top at d = exp(a / b - 1). Both are linear in a and b.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Fit(NamedTuple):
    """A form fitted by least squares."""

    form: str
    a: float
    b: float
    a_error: float  # standard errors, if points are independent
    b_error: float
    r_squared: float
    peak_kl: float | None  # None where the form has no top
    turns: bool  # the top lies within the points
    points: int


FORMS = ("best_of_n", "rl")
LEAST_KL = 0.01  # nats: below it sqrt(KL) is noise
STEPS = 20  # points at which a mean curve is computed
Curve = Mapping[str, Sequence[float]]  # "kl" and "gold" of each point, in the order of training


def fit(form: str, kl: Sequence[float], gain: Sequence[float]) -> Fit:
    """The form's coefficients. Raises ValueError for a form that is none, or fewer than three points."""
    if form not in FORMS:
        raise ValueError(f"form should be one of {', '.join(FORMS)}, got {form!r}")
    kept = np.asarray(kl, dtype=float) > LEAST_KL
    if kept.sum() < 3:
        raise ValueError(f"{int(kept.sum())} points with a KL above {LEAST_KL}, and two coefficients: too few")
    d, y = np.sqrt(np.asarray(kl, dtype=float)[kept]), np.asarray(gain, dtype=float)[kept]
    bend = d * d if form == "best_of_n" else d * np.log(d)
    x = np.stack([d, -bend], 1)  # (points, 2)
    (a, b), *_ = np.linalg.lstsq(x, y, rcond=None)
    left = y - x @ np.array([a, b])
    variance = left @ left / max(len(y) - 2, 1)
    errors = np.sqrt(np.diag(variance * np.linalg.inv(x.T @ x)))
    peak = _peak(form, float(a), float(b))
    total = ((y - y.mean()) ** 2).sum()
    squared = float(1 - (left @ left) / total) if total > 0 else float("nan")
    turns = peak is not None and bool(d.min() ** 2 <= peak <= d.max() ** 2)
    return Fit(form, float(a), float(b), float(errors[0]), float(errors[1]), squared, peak, turns, len(y))


def _peak(form: str, a: float, b: float) -> float | None:
    if b <= 0:
        return None
    d = a / (2 * b) if form == "best_of_n" else float(np.exp(a / b - 1))
    return d * d if d > 0 else None


def mean_curve(curves: Sequence[Curve], reach: float = 0.5) -> tuple[list[float], list[float]]:
    """KL and gain of several seeds' curves as one: their means at 20 equal steps of sqrt(KL).

    Curves are moving means in the order of training. A seed counts as far as its own KL goes. The steps end at the KL
    that a share of 1 - `reach` of the seeds does: 0 is that of the shortest curve, 0.5 the median, 1 that of the
    longest.
    """
    seeds = [_by_kl(curve) for curve in curves]
    top = float(np.quantile([kl[-1] for kl, _ in seeds], reach))
    grid = top * (np.arange(1, STEPS + 1) / STEPS) ** 2
    gains = [np.interp(grid, kl, gain, right=np.nan) for kl, gain in seeds]
    return grid.tolist(), np.nanmean(gains, axis=0).tolist()


def gains(curve: Curve) -> tuple[list[float], list[float]]:
    """The KL of each point, and its gold over the curve's start."""
    return list(curve["kl"]), [gold - curve["gold"][0] for gold in curve["gold"]]


def _by_kl(curve: Curve) -> tuple[Any, Any]:
    """KL, ascending, and gain over the curve's start, each (points,), as moving means."""
    kl, gain = map(moving_mean, gains(curve))
    order = np.argsort(kl)
    return kl[order], gain[order]


def moving_mean(values: Sequence[float], width: int = 5) -> Any:
    """Over `width` values, fewer at the ends."""
    half = width // 2
    return np.array([np.mean(values[max(0, at - half) : at + half + 1]) for at in range(len(values))])
