"""Losses of sampled tokens. They know ratios and advantages, not how losses are summed.

r is the policy's probability of a token over that of what sampled it, A the token's advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import PolicyLoss

if TYPE_CHECKING:
    from torch import Tensor

Epsilon = Annotated[float, Field(gt=0, lt=1, description="how far the ratio may move from 1 and still gain")]


@dataclass(frozen=True)
class Clip(PolicyLoss):
    """PPO: max(-A r, -A clip(r, 1 - epsilon, 1 + epsilon)) (Schulman et al. 2017, equation 7).

    With `epsilon_high` the upper limit is 1 + epsilon_high, so that rare tokens can become likely (Yu et al. 2025).
    """

    epsilon: Epsilon = 0.2  # Huang et al. 2024
    epsilon_high: Annotated[
        Annotated[float, Field(gt=0)] | None, Field(description="of the upper limit; null is epsilon")
    ] = None

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:  # (B, T)
        """With the sign of a loss."""
        ratio = log_ratio.exp()
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        return -(advantages * ratio).minimum(advantages * ratio.clamp(1 - self.epsilon, 1 + high))


@dataclass(frozen=True)
class DualClip(PolicyLoss):
    """PPO whose loss at A < 0 is at most -A limit, however large r grows (Ye et al. 2020)."""

    epsilon: Epsilon = 0.2
    limit: Annotated[float, Field(gt=1, description="of the ratio where the advantage is negative")] = 3.0

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:  # (B, T)
        """With the sign of a loss."""
        loss = Clip(self.epsilon)(log_ratio, advantages)
        return loss.where(advantages >= 0, loss.minimum(-self.limit * advantages))


@dataclass(frozen=True)
class PolicyGradient(PolicyLoss):
    """-A r, without a clip: at r = 1 its gradient is the policy gradient -A grad log pi (Williams 1992)."""

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:  # (B, T)
        """With the sign of a loss."""
        return -advantages * log_ratio.exp()


@dataclass(frozen=True)
class AdvantageWeighted(PolicyLoss, off_policy=True):
    """-min(exp(A / beta), limit) log r: advantage-weighted regression (Peng et al. 2019, equation 9 and section 5).

    What was sampled is imitated, the more the better it was, so that no clip is needed and rows of any policy will do:
    it is the loss of the stage `offline`. At A = 0 it is the supervised loss. Its gradient is not the policy gradient.
    """

    beta: Annotated[float, Field(gt=0, description="advantage that weighs e times as much")] = 1.0
    limit: Annotated[float, Field(gt=1, description="of the weight, so that no row outweighs all others")] = 20.0

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:  # (B, T)
        """With the sign of a loss."""
        return -(advantages / self.beta).exp().clamp(max=self.limit) * log_ratio


@hookimpl
def register_policy_loss() -> dict[str, type]:
    """The bundled losses."""
    return {
        "advantage_weighted": AdvantageWeighted,
        "clip": Clip,
        "dual_clip": DualClip,
        "policy_gradient": PolicyGradient,
    }
