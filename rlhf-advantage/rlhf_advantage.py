"""An advantage estimator: a rollout in, how much better than expected each token was out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from rlhf_plugins import Advantages, Rollout, hookimpl


@dataclass(frozen=True)
class Advantage:
    """A_t = sum_{l >= t} r_l - baseline, the reward to go (say here where yours comes from)."""

    baseline: Annotated[float, Field(description="what is expected of any response")] = 0.0
    needs_values: ClassVar[bool] = False  # so that no critic is trained

    def __call__(self, rollout: Rollout) -> Advantages:  # both (B, T)
        rewards = rollout.rewards.masked_fill(~rollout.mask, 0.0)
        to_go = rewards.flip(1).cumsum(1).flip(1).masked_fill(~rollout.mask, 0.0)
        return Advantages((to_go - self.baseline).masked_fill(~rollout.mask, 0.0), to_go)


@hookimpl
def register_advantage() -> dict[str, type]:
    return {"advantage": Advantage}
