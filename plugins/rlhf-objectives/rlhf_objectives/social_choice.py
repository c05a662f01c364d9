"""Aggregations that count the members' votes, whatever the scale of each. Borda's count is `vote` of rlhf-plugins.

They know ranks alone and have no gradient: they aggregate trained members, and cannot train them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_objectives.siblings import beaten, by_prompt
from rlhf_plugins import Aggregation, MemberScores, hookimpl


@dataclass(frozen=True)
class Majority(Aggregation, compares_siblings=True, under_shift="same", under_scale="same"):
    """The share of its siblings that a response beats by a majority of the members (Copeland 1951).

    A sibling that as many members prefer counts one half, and so does having no siblings. For a pair it is majority
    rule. A response that beats every other one in this way, Condorcet's winner, has 1.
    """

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores accuracies. A reward that is NaN stays so."""
        return by_prompt(members, lambda rewards: beaten((preferred(rewards) - 0.5).sign() / 2 + 0.5))


@dataclass(frozen=True)
class Maximin(Aggregation, compares_siblings=True, under_shift="same", under_scale="same"):
    """The least share of members that prefer a response to a sibling, over its siblings (Simpson 1969).

    A tie of a member counts one half. It keeps a response down that any one sibling beats clearly, where `vote` lets
    others make up for that. The egalitarian maximin, the reward of the worst-off member, is `worst_case`.
    """

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores accuracies. A reward that is NaN stays so."""
        return by_prompt(members, lambda rewards: _others(preferred(rewards)).amin(1))


def preferred(rewards: Tensor) -> Tensor:
    """The share of M members that prefer the first of two responses to the second, ties one half: (M, K) -> (K, K)."""
    own, other = rewards.unsqueeze(2), rewards.unsqueeze(1)
    return ((own > other) + 0.5 * (own == other)).mean(0)


def _others(shares: Tensor) -> Tensor:
    """The shares (K, K) with 1, which no minimum is above, on the diagonal."""
    return shares.masked_fill(torch.eye(len(shares), dtype=torch.bool, device=shares.device), 1.0)


@hookimpl
def register_aggregation() -> dict[str, type]:
    """The aggregations of this file."""
    return {"majority": Majority, "maximin": Maximin}
