"""What measures of scored pairs share: gaps, ties, prompts and distinct responses. It knows arrays, no measure."""

from __future__ import annotations

from math import hypot, sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rlhf_plugins.contract.records import ScoredPairs

Z = 1.959963984540054  # standard deviations on each side of a normal mean, of 95%


def gap(pairs: ScoredPairs) -> np.ndarray:
    return pairs.chosen - pairs.rejected


def right(pairs: ScoredPairs) -> np.ndarray:
    """1 where the order is right, 1/2 at a tie, (pairs,)."""
    return larger(pairs.chosen, pairs.rejected)


def larger(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """1 where ours is larger, 0 where it is smaller, 1/2 at a tie; all (n,)."""
    return np.where(ours == theirs, 0.5, ours > theirs)


def prompts(pairs: ScoredPairs) -> np.ndarray:
    """Codes 0, 1, ... of the pairs' prompts; where they are unknown, each pair has its own."""
    known = np.arange(len(pairs.chosen)) if pairs.prompt is None else pairs.prompt
    return np.unique(known, return_inverse=True)[1]


def one_a_prompt(pairs: ScoredPairs) -> np.ndarray:
    """The places of one random pair of each prompt, the same in every call: pairs of one prompt are not independent."""
    order = np.random.default_rng(0).permutation(len(pairs.chosen))
    return order[np.unique(prompts(pairs)[order], return_index=True)[1]]


def responses(pairs: ScoredPairs, truth: np.ndarray | None = None) -> np.ndarray:
    """Reward, length and truth of each response, (3, responses), without those whose truth is unknown.

    Responses to one prompt are distinguished by these numbers, since the pairs do not name them.
    """
    reward, length = np.r_[pairs.chosen, pairs.rejected], np.r_[pairs.chosen_length, pairs.rejected_length]
    columns = [np.tile(prompts(pairs), 2), reward, length, np.zeros_like(reward) if truth is None else truth]
    rows = np.column_stack(columns)
    return np.unique(rows[~np.isnan(rows[:, 3])], axis=0).T[1:]


def unanimous(value: float, n: int, least: float = 0.0) -> tuple[float, float]:
    """The 95% interval of the mean of n independent numbers, from `least` to 1, that all are `value`.

    A bootstrap has none. Here a part z^2 / (n + z^2) of the population may be of others, all `least` or all 1; of
    shares, which are 0 or 1, this is Wilson's interval (1927).
    """
    unseen = Z**2 / (n + Z**2)
    return value + (least - value) * unseen, value + (1 - value) * unseen


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share of n independent ones (Wilson 1927)."""
    middle, wide = share + Z**2 / (2 * n), Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = ((middle + way * wide) / (1 + Z**2 / n) for way in (-1, 1))
    return max(0.0, low), min(1.0, high)  # rounding leaves them by 1e-17


def difference(ours: float, n: int, theirs: float, m: int) -> tuple[float, float]:
    """The 95% interval of the difference of two independent shares, of n and of m (Newcombe 1998, method 10)."""
    (low, high), (least, most) = wilson_interval(ours, n), wilson_interval(theirs, m)
    gap = ours - theirs
    return gap - hypot(ours - low, most - theirs), gap + hypot(high - ours, theirs - least)


def constant(values: np.ndarray) -> bool:
    return len(values) == 0 or np.ptp(values) == 0
