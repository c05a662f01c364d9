"""Measures of a reward model on held-out pairs: arithmetic on arrays of rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from scipy import stats
from scipy.special import expit

from rlhf_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from rlhf_plugins.interfaces import ScoredPairs


@dataclass(frozen=True)
class Accuracy:
    """The share of pairs whose chosen response has the higher reward, a tie counting one half.

    Beside it stands what always preferring the longer response would score on the same pairs.
    """

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> accuracy, accuracy_longer_response."""
        longer = _share_first(pairs.chosen_length, pairs.rejected_length)
        return {"accuracy": _share_first(pairs.chosen, pairs.rejected), "accuracy_longer_response": longer}


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error of p = sigmoid(r_a - r_b) as the probability that a is preferred to b.

    Each pair is read both ways round, since which response came first is arbitrary:
    ECE = sum_b |b|/n |preferred(b) - p(b)| over equal-width bins (Naeini et al. 2015).
    """

    bins: Annotated[int, Field(ge=1, description="equal-width bins of p over [0, 1]")] = 10

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> calibration_ece, calibration_brier."""
        gap = pairs.chosen - pairs.rejected
        p = expit(np.concatenate([gap, -gap]))  # not 1 - p, whose rounding puts equal probabilities into two bins
        preferred = np.repeat([1.0, 0.0], len(gap))
        bin_of = np.minimum((p * self.bins).astype(int), self.bins - 1)
        gaps = [abs((preferred - p)[bin_of == b].sum()) for b in range(self.bins)]
        return {"calibration_ece": float(sum(gaps) / len(p)), "calibration_brier": float(np.mean((p - preferred) ** 2))}


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho and Kendall's tau-b of reward with gold reward over all held-out responses."""

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> rank_correlation_spearman, rank_correlation_kendall; nothing when gold is unknown."""
        if pairs.chosen_gold is None or pairs.rejected_gold is None:
            return {}
        reward = np.concatenate([pairs.chosen, pairs.rejected])
        gold = np.concatenate([pairs.chosen_gold, pairs.rejected_gold])
        return {
            "rank_correlation_spearman": float(stats.spearmanr(reward, gold).statistic),
            "rank_correlation_kendall": float(stats.kendalltau(reward, gold).statistic),
        }


@dataclass(frozen=True)
class LengthBias:
    """Spearman's rho of reward with response length over all held-out responses."""

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> length_bias."""
        reward = np.concatenate([pairs.chosen, pairs.rejected])
        length = np.concatenate([pairs.chosen_length, pairs.rejected_length])
        return {"length_bias": float(stats.spearmanr(reward, length).statistic)}


def _share_first(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.mean(np.where(first == second, 0.5, first > second)))


@hookimpl
def register_metric() -> dict[str, type]:
    """The bundled metrics."""
    return {
        "accuracy": Accuracy,
        "calibration": Calibration,
        "length_bias": LengthBias,
        "rank_correlation": RankCorrelation,
    }
