"""Weak-to-strong generalisation: a strong model learns from a weak one's labels, and may come to trust itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import RankedScores, RewardLoss, hookimpl


@dataclass(frozen=True)
class WeakToStrong(RewardLoss, under_shift="same"):
    """-(1 - alpha) log sigmoid(d) - alpha log sigmoid(|d|), d = r_chosen - r_rejected (Burns et al. 2023, 4.3.2).

    The auxiliary confidence loss: (1 - alpha) CE(f, weak label) + alpha CE(f, [f > t]), f = sigmoid(d). They set t so
    that half of a batch lies above it; of pairs, read both ways round, that is 1/2. They raise alpha from 0 over the
    first fifth of the training; here it is the same from the first step.
    """

    alpha: Annotated[float, Field(ge=0, lt=1, description="weight of the model's own opinion")] = 0.5

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Ignores margins."""
        gap = scores.chosen - scores.rejected
        return -(1 - self.alpha) * logsigmoid(gap) - self.alpha * logsigmoid(gap.abs())


@hookimpl
def register_reward_loss() -> dict[str, type]:
    """The loss of this file."""
    return {"weak_to_strong": WeakToStrong}
