"""A loss of reward models: rewards of judged responses in, one number a group out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_plugins import RankedScores, hookimpl


@dataclass(frozen=True)
class RewardLoss:
    """-log sigmoid(scale (r_chosen - r_rejected)); scale = 1 is Bradley-Terry (say here where yours comes from)."""

    scale: Annotated[float, Field(gt=0, description="how soon a pair counts as ordered")] = 2.0

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        return -logsigmoid(self.scale * (scores.chosen - scores.rejected))


@hookimpl
def register_reward_loss() -> dict[str, type]:
    return {"reward_loss": RewardLoss}
