"""A test that is valid at every look: evidence that grows by betting on the next prompt.

A gambler starts with 1 and bets on each prompt at fair odds. Were the policies equal, nobody could expect to win, and
the chance that the wealth ever reaches 1 / alpha is at most alpha (Ville 1939), however often one looks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize
from scipy.special import betaln

from rlhf_watch.ab.paired import Counts, Interval, Numbers

BOLDNESS = 4.0  # a of the Beta(a, a) prior on the win rate: a deviation of 1/6 around 1/2


def wealth(won: Any, lost: Any, rate: float = 0.5) -> Any:
    """The e-value against `won / (won + lost)` being `rate`; ties change nothing. Of numbers or arrays.

    The mixture over Beta(a, a) of the bets (p / rate)^won ((1 - p) / (1 - rate))^lost, whose integral is
    B(won + a, lost + a) / B(a, a) / (rate^won (1 - rate)^lost) (Robbins 1970).
    """
    fair = np.multiply(won, np.log(rate)) + np.multiply(lost, np.log1p(-rate))
    logs = betaln(np.add(won, BOLDNESS), np.add(lost, BOLDNESS)) - betaln(BOLDNESS, BOLDNESS) - fair
    return np.exp(np.minimum(logs, 700.0))


def wealths(ours: Numbers, theirs: Numbers) -> Numbers:
    """The e-value after each prompt, (..., n), of scores (..., n) in the order in which they came."""
    grown: Numbers = wealth((ours > theirs).cumsum(-1), (ours < theirs).cumsum(-1))
    return grown


def closed(values: Numbers) -> Numbers:
    """E-values (m, ..., n) of m policies, corrected for their number: those of the closed test by means.

    The mean of the e-values of any set of policies is one against the hypothesis that all of them equal the baseline,
    however they depend on each other. A policy's corrected e-value is the least mean of a set that holds it, which is
    of itself and the smallest others; it is at least a share 1 / m of its own (Vovk and Wang 2021). The chance that
    that of any policy which does equal the baseline ever reaches 1 / alpha is at most alpha.
    """
    found = []
    for place in range(len(values)):
        others = np.sort(np.delete(values, place, 0), 0)
        sums = values[place] + np.concatenate([np.zeros_like(values[:1]), others.cumsum(0)])  # (m, ..., n)
        sizes = np.arange(1, len(values) + 1).reshape(-1, *[1] * (values.ndim - 1))
        found.append((sums / sizes).min(0))
    return np.stack(found)


def anytime_p(values: Numbers) -> float:
    """1 / the largest e-value so far, at most 1: a p-value at any look."""
    return float(min(1.0, 1.0 / np.max(values, initial=1.0)))


def stops_at(values: Numbers, alpha: float = 0.05) -> int | None:
    """The number of prompts after which the test was decided; None where it is not."""
    reached = np.flatnonzero(values >= 1 / alpha)
    return int(reached[0]) + 1 if len(reached) else None


def sequential_interval(found: Counts, alpha: float = 0.05) -> Interval:
    """All rates of wins among decided prompts that are not refuted: they hold the true one at every look at once."""
    won, lost = found.won, found.lost
    if not won + lost:
        return Interval(0.0, 1.0)

    def refuted(rate: float) -> float:
        return float(np.log(wealth(won, lost, rate) * alpha))

    least, centre = 1e-12, np.clip(won / (won + lost), 1e-9, 1 - 1e-9)
    low = float(optimize.brentq(refuted, least, centre)) if refuted(least) > 0 > refuted(centre) else 0.0
    high = float(optimize.brentq(refuted, centre, 1 - least)) if refuted(1 - least) > 0 > refuted(centre) else 1.0
    return Interval(low, high)
