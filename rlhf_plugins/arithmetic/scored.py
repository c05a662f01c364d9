"""What measures of scored pairs share: gaps, ties, prompts and distinct responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rlhf_plugins.contract.records import ScoredPairs


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


def constant(values: np.ndarray) -> bool:
    return len(values) == 0 or np.ptp(values) == 0
