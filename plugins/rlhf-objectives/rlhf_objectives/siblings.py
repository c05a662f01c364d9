"""What the aggregations share: the responses to each prompt are compared among themselves. Arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf_plugins import MemberScores

ALONE = 0.5  # what a response without siblings is given


def by_prompt(members: MemberScores, score: Callable[[Tensor], Tensor]) -> Tensor:
    """(B,): `score` from (M, K) rewards of the K > 1 responses to a prompt to (K,); NaN where a member's reward is."""
    found = members.rewards.new_full(members.rewards.shape[1:], ALONE)
    for group in members.group.unique():
        rows = (members.group == group).nonzero().squeeze(1)
        if len(rows) > 1:
            found[rows] = score(members.rewards[:, rows]).to(found.dtype)
    return found.masked_fill(members.rewards.isnan().any(0), torch.nan)


def beaten(wins: Tensor) -> Tensor:
    """The mean over the K - 1 others of each response's wins (K, K), which are 1/2 on the diagonal."""
    return (wins.sum(1) - 0.5) / (len(wins) - 1)
