"""Group distributionally robust optimisation: the loss of the topic that the model does worst on counts most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from rlhf_plugins import RankedScores, RewardLoss, RunError, hookimpl, uses

MOST = 4096  # topics


@dataclass(frozen=True)
class GroupDRO(RewardLoss, like="loss", needs={"topic"}, uses_batch_mates=True, holds_constant=True):
    """sum_g q_g L_g over the topics g of a batch, L_g the mean of another loss on g's rows (Sagawa et al. 2020).

    Their algorithm 1: each batch in training first moves q_g in proportion to q_g exp(eta L_g); q starts equal. Here q
    sums to 1 over the topics that a batch has, where theirs does over all. For the mean of a batch's N numbers to be
    that sum, a row's number is N q_g / n_g times its loss, n_g being its topic's rows. q is saved with a checkpoint.
    """

    loss: RewardLoss = uses("reward_loss", "bradley_terry")
    eta: Annotated[float, Field(gt=0, description="how fast the worst topic gains weight")] = 0.01

    def build(self) -> nn.Module:
        """A module from RankedScores to (groups,) that holds q, and the weights of the inner loss."""
        return _GroupDRO(self.loss.acting(), self.eta)


class _GroupDRO(nn.Module):
    gathered: Tensor

    def __init__(self, inner: Any, eta: float) -> None:
        super().__init__()
        self.inner, self.eta = inner, eta
        # of one size from the start, since a checkpoint is loaded into a new module
        self.register_buffer("gathered", torch.zeros(MOST))  # (topics,) log q up to a constant: eta times losses so far

    def forward(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises RunError for more topics than it holds, and what the inner loss raises."""
        losses: Tensor = self.inner(scores)
        topics, place, count = scores.topic.unique(return_inverse=True, return_counts=True)
        if int(topics.max()) >= MOST:
            raise RunError(f"group_dro: the data have {int(topics.max()) + 1} topics, and it holds {MOST}")
        if self.training:
            mean = torch.zeros(len(topics)).to(losses).index_add(0, place, losses.detach()) / count
            self.gathered[topics] += (self.eta * mean).to(self.gathered.dtype)
        share = self.gathered[topics].to(losses.dtype).softmax(0)
        return losses * (len(losses) * share / count)[place]


@hookimpl
def register_reward_loss() -> dict[str, type]:
    """The loss of this file."""
    return {"group_dro": GroupDRO}
