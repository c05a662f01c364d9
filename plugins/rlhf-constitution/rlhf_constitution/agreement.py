"""How far a judge agrees with gold or with people: arrays of differences in, agreement and Cohen's kappa out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """How far a judge agrees with gold, on the pairs that the judge keeps and gold does not tie."""

    pairs: int
    kept: float  # the share of all pairs
    agreement: float
    kappa: float  # (p_o - p_e) / (1 - p_e), Cohen (1960)
    error: float  # the standard error of kappa

    def row(self) -> dict[str, float]:
        """For a table."""
        low, high = self.kappa - 1.96 * self.error, self.kappa + 1.96 * self.error
        return {
            "pairs": self.pairs,
            "kept": round(self.kept, 3),
            "agreement": round(self.agreement, 3),
            "kappa": round(self.kappa, 3),
            "low": round(low, 3),
            "high": round(high, 3),
        }


def agreement(judged: Numbers, gold: Numbers, gap: float = 0.0, prompts: Codes | None = None) -> Agreement:
    """The agreement of two judgements of the same pairs, as differences s_a - s_b; a pair is kept where |judged| > gap.

    Pairs of one prompt, whose codes 0, 1, ... `prompts` has, depend on each other: then the error is that of the sums
    over prompts (Liang and Zeger 1986), else each pair is its own.
    """
    kept = (np.abs(judged) > gap) & (gold != 0)
    a, b = judged[kept] > 0, gold[kept] > 0
    if not len(a):
        return Agreement(0, 0.0, math.nan, math.nan, math.nan)
    observed = float((a == b).mean())
    chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    if chance == 1:
        return Agreement(len(a), float(kept.mean()), observed, math.nan, math.nan)
    error = _error(a == b, np.arange(len(a)) if prompts is None else prompts[kept]) / (1 - chance)
    return Agreement(len(a), float(kept.mean()), observed, (observed - chance) / (1 - chance), error)


def _error(same: npt.NDArray[np.bool_], prompts: Codes) -> float:
    """The standard error of the share of equal judgements; NaN where all of several pairs are of one prompt."""
    codes = np.unique(prompts, return_inverse=True)[1]
    count = int(codes.max()) + 1
    sums = np.bincount(codes, same - same.mean())
    if count == len(same):
        return math.sqrt(float((sums**2).sum())) / len(same)
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(same) if count > 1 else math.nan


def by_length(judged: Numbers, gold: Numbers, words: Numbers, prompts: Codes) -> Iterator[tuple[str, Agreement]]:
    """Agreement by quartile of the pairs' difference in length, `words` being n_a - n_b."""
    size = np.abs(words)
    cuts = np.quantile(size, [0.25, 0.5, 0.75]) if len(size) else np.zeros(3)
    quartile = np.searchsorted(cuts, size, side="left")
    for place in range(4):
        chosen = quartile == place
        own = agreement(judged[chosen], gold[chosen], prompts=prompts[chosen])
        yield f"quartile {place + 1} of the difference in length", own


def length_controlled(judged: Numbers, gold: Numbers, words: Numbers) -> float:
    """The mean agreement on pairs whose better response, by gold, is the longer one and on those where it is not.

    A judge that always takes the longer response has 0.5, however often longer is better.
    """
    same = (judged > 0) == (gold > 0)
    longer = (gold > 0) == (words > 0)
    parts = [same[chosen].mean() for chosen in (longer & (words != 0), ~longer & (words != 0)) if chosen.any()]
    return float(np.mean(parts)) if parts else math.nan


@dataclass(frozen=True)
class Gains:
    """What choosing the best of n by a judge seems to gain, and gains."""

    judged: float  # the judge's mean score of the winners, less that of all: too high, the winner's curse
    rescored: float  # the same with the judge's noise drawn again, which is right on average
    true: float | None = None  # by gold


def gains(scores: Numbers, again: Numbers, gold: Numbers | None = None) -> Gains:
    """The gains of choosing the best of n by `scores`; all arguments are (prompts, n), and `again` has other noise."""
    rows, best = np.arange(len(scores)), scores.argmax(1)

    def gain(values: Numbers) -> float:
        return float(values[rows, best].mean() - values.mean())

    return Gains(gain(scores), gain(again), None if gold is None else gain(gold))
