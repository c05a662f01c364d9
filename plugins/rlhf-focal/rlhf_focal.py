"""Focal Bradley-Terry: spends less on the pairs that the model already orders well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch.nn.functional import logsigmoid

from rlhf_plugins import RankedScores, RewardLoss, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FocalBradleyTerry(RewardLoss):
    """-(1 - p)^gamma log p with p = sigmoid(r_chosen - r_rejected): the focal loss of Lin et al. 2017, equation 4."""

    gamma: Annotated[float, Field(ge=0, description="0 is plain Bradley-Terry")] = 2.0

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Ignores margins. By the logarithm of 1 - p, which float32 rounds to 0, where a power below 1 has no slope."""
        gap = scores.chosen - scores.rejected
        return -(self.gamma * logsigmoid(-gap)).exp() * logsigmoid(gap)


@hookimpl
def register_reward_loss() -> dict[str, type]:
    """The loss of this package."""
    return {"focal_bradley_terry": FocalBradleyTerry}
