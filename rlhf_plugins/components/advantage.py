"""Advantage estimators: arithmetic on one rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field

from rlhf_plugins.hookspecs import hookimpl
from rlhf_plugins.interfaces import Advantages

if TYPE_CHECKING:
    from rlhf_plugins.interfaces import Rollout


@dataclass(frozen=True)
class GAE:
    """Generalised advantage estimation: A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t.

    V is 0 after a response's last token; returns are A_t + V_t (Schulman et al. 2016, equation 16).
    """

    gamma: Annotated[float, Field(ge=0, le=1, description="discount per token")] = 1.0
    lam: Annotated[float, Field(ge=0, le=1, description="0 is one-step TD, 1 is Monte Carlo")] = 0.95
    needs_values: ClassVar[bool] = True

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask."""
        assert rollout.values is not None
        values = rollout.values.masked_fill(~rollout.mask, 0.0)
        rewards = rollout.rewards.masked_fill(~rollout.mask, 0.0)
        after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)  # V_{t+1}
        deltas = rewards + self.gamma * after - values
        advantages = torch.zeros_like(deltas)
        carried = torch.zeros_like(deltas[:, 0])  # (B,)
        for t in reversed(range(deltas.shape[1])):
            carried = deltas[:, t] + self.gamma * self.lam * carried
            advantages[:, t] = carried
        advantages = advantages.masked_fill(~rollout.mask, 0.0)
        return Advantages(advantages, (advantages + values).masked_fill(~rollout.mask, 0.0))


@hookimpl
def register_advantage() -> dict[str, type]:
    """The bundled estimators."""
    return {"gae": GAE}
