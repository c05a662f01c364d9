"""The aggregation `lexicographic`: the first objective decides, the next only where the first is equal or enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from rlhf_objectives.siblings import beaten, by_prompt
from rlhf_plugins import Aggregation, MemberScores, RunError, hookimpl


@dataclass(frozen=True)
class Lexicographic(Aggregation, compares_siblings=True):
    """The share of its siblings that a response beats by the first member on which they differ; a tie is one half.

    Members are objectives, the most important first. Where a member has a threshold, min(r, threshold) is compared, so
    that more than enough of it does not matter (thresholded lexicographic ordering, Vamplew et al. 2011, section 3.2).
    A tolerance in place of a threshold would be no order: it is not transitive.
    """

    thresholds: Annotated[
        list[float], Field(description="what is enough of the first, the second, ... member; without one: no limit")
    ] = field(default_factory=list)

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores accuracies. Raises RunError for more thresholds than members."""
        if len(self.thresholds) > len(members.rewards):
            raise RunError(f"lexicographic: {len(self.thresholds)} thresholds for {len(members.rewards)} objectives")
        return by_prompt(members, self._scored)

    def _scored(self, rewards: Tensor) -> Tensor:
        order = rewards.new_zeros(rewards.shape[1], rewards.shape[1])  # 1 where the first of two responses wins
        for place, row in enumerate(rewards):
            row = row.clamp(max=self.thresholds[place]) if place < len(self.thresholds) else row
            order = torch.where(order == 0, (row.unsqueeze(1) - row).sign(), order)
        return beaten(order / 2 + 0.5)


@hookimpl
def register_aggregation() -> dict[str, type]:
    """The aggregation of this file."""
    return {"lexicographic": Lexicographic}
