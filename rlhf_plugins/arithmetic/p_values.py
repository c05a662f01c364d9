"""P-values of counts, and several of them corrected for their number."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from scipy import stats

Name = TypeVar("Name", bound=Hashable)
P = TypeVar("P", float, float | None)


def sign_test(won: int, lost: int) -> float:
    """Two-sided p that wins and losses are equally likely, ties left out (Dixon and Mood 1946); 1 of none."""
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def holm(p_values: Mapping[Name, P]) -> dict[Name, P]:
    """P-values corrected for their number m (Holm 1979): the running maximum of (m - i) p_(i), i from 0, at most 1.

    None is no test, counts for nothing, and stays None.
    """
    known = sorted(((p, name) for name, p in p_values.items() if p is not None), key=lambda one: one[0])
    corrected = dict(p_values)
    highest = 0.0
    for place, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - place) * p))
        corrected[name] = highest
    return corrected
