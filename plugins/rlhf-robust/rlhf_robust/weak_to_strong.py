"""Weak-to-strong generalisation: a strong model learns from a weak one's labels, and may come to trust itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from rlhf_plugins import RankedScores, RewardLoss, hookimpl


@dataclass(frozen=True)
class WeakToStrong(RewardLoss, under_shift="same", uses_batch_mates=True, takes_probabilities=True):
    """(1 - a) CE(p, sigmoid(d)) + a CE([d > 0], sigmoid(d)), d = r_chosen - r_rejected (Burns et al. 2023, 4.3.2).

    The auxiliary confidence loss: p is the weak label that the chosen response is better (1 where it is no soft label),
    [d > 0] the model's own opinion, which is -log sigmoid(|d|). They set the threshold so that half of a batch lies
    above it; of pairs, read both ways round, that is 1/2. a rises from 0 to `alpha` over the first `warmup` pairs; they
    take the first fifth of the training. Pairs of training alone count, and the count is saved with a checkpoint.
    """

    alpha: Annotated[float, Field(ge=0, lt=1, description="weight of the model's own opinion")] = 0.5
    warmup: Annotated[int, Field(ge=0, description="pairs over which it rises from 0; 0 begins with it")] = 0

    def build(self) -> nn.Module:
        """A module from RankedScores to (groups,) that counts pairs; it ignores margins."""
        return _WeakToStrong(self.alpha, self.warmup)


class _WeakToStrong(nn.Module):
    seen: Tensor

    def __init__(self, alpha: float, warmup: int) -> None:
        super().__init__()
        self.alpha, self.warmup = alpha, warmup
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, scores: RankedScores) -> Tensor:  # (groups,)
        gap, p = scores.chosen - scores.rejected, scores.probability
        alpha = self.alpha * min(1.0, int(self.seen) / self.warmup) if self.warmup else self.alpha
        if self.training:
            self.seen += len(gap)
        weak = -p * logsigmoid(gap) - (1 - p) * logsigmoid(-gap)
        return (1 - alpha) * weak - alpha * logsigmoid(gap.abs())


@hookimpl
def register_reward_loss() -> dict[str, type]:
    """The loss of this file."""
    return {"weak_to_strong": WeakToStrong}
