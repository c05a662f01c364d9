"""Means with their uncertainty. It knows numbers, not what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from rlhf_plugins.arithmetic.scored import larger, unanimous
from rlhf_plugins.errors import RunError

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and its 95% confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: np.ndarray, seed: int = 0) -> Interval:
    """The mean with its bias-corrected bootstrap interval (Efron 1987, BCa); degenerate where all values are equal.

    Args:
        values: (n,) one number an independent unit, such as a prompt; n >= 1.
        seed: of the resampling.
    """
    mean = float(np.mean(values))
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    found: Any = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(seed), vectorized=True
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def share_interval(values: np.ndarray, least: float = 0.0) -> Interval:
    """As `mean_interval`, of shares from 0 to 1; where all are equal, at 100% say, Wilson's (1927) instead of no width.

    Args:
        values: (n,) one share an independent unit, such as whether a prompt is won; n >= 1.
        least: the smallest possible one: -1 of differences of shares.
    """
    mean = float(np.mean(values))
    return Interval(mean, *unanimous(mean, len(values), least)) if np.ptp(values) == 0 else mean_interval(values)


def finite(scores: Sequence[float], what: str) -> np.ndarray:
    """The scores as an array, (n,). Raises RunError when one is NaN or infinite: a comparison would hide it."""
    found = np.array(scores, dtype=float)
    if bad := int((~np.isfinite(found)).sum()):
        raise RunError(f"{bad} of {len(found)} {what}s are not finite numbers")
    return found


def paired(scores: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """How scores compare with a reference's on the same prompts, both (n,), as `report.schema.PolicyReport` has it."""
    return {
        "gain": mean_interval(scores - reference)._asdict(),
        "win_rate": share_interval(larger(scores, reference))._asdict(),
        "win_p_value": sign_test(scores, reference),
    }


def sign_test(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Two-sided p-value that wins and losses are equally likely, ties left out (Dixon and Mood 1946)."""
    won, lost = int((ours > theirs).sum()), int((ours < theirs).sum())
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def normalised(score: float, reference: float, ceiling: float) -> float:
    """100 (score - reference) / (ceiling - reference): 0 is the reference, 100 the ceiling; NaN if equal."""
    return 100 * (score - reference) / (ceiling - reference) if ceiling != reference else float("nan")


def distinct(texts: list[str], n: int) -> float:
    """The share of different n-grams among all n-grams of words (Li et al. 2016); 0 where there are none."""
    grams = [tuple(words[i : i + n]) for words in (t.split() for t in texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
