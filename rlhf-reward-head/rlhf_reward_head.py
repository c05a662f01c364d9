"""A reward head: feature vectors in, rewards out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import nn

from rlhf_plugins import hookimpl


@dataclass(frozen=True)
class RewardHead:
    """w silu(V h + b) + c, a perceptron with one hidden layer (say here where yours comes from)."""

    hidden: Annotated[int, Field(ge=1, description="units of the hidden layer")] = 64

    def build(self, width: int) -> nn.Module:  # from (batch, width) to (batch,)
        first, last = nn.Linear(width, self.hidden), nn.Linear(self.hidden, 1)
        return nn.Sequential(first, nn.SiLU(), last, nn.Flatten(0))


@hookimpl
def register_reward_head() -> dict[str, type]:
    return {"reward_head": RewardHead}
