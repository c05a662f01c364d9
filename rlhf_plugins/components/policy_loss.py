"""Losses of sampled tokens.

r is the policy's probability of a token over that of what sampled it, A the token's advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.arithmetic import masked
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
        """The loss of each token; see the class."""
        return _clipped(log_ratio.exp(), advantages, self.epsilon, self.epsilon_high)


@dataclass(frozen=True)
class GSPO(PolicyLoss, reads_mask=True):
    """max(-A s, -A clip(s, 1 - epsilon, 1 + epsilon_high)), s the ratio of the whole response (Zheng et al. 2025).

    s = exp(mean over its tokens of log r), their equation 7, so that a response is clipped as a whole, and each of its
    tokens weighs alike in the gradient. With `reduction: responses` and one advantage for a response it is their
    equation 5. s moves far less than r: the limits are those of their section 5.1.
    """

    epsilon: Epsilon = 3e-4
    epsilon_high: Annotated[
        Annotated[float, Field(gt=0)] | None, Field(description="of the upper limit; null is epsilon")
    ] = 4e-4

    def __call__(self, log_ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """(B, T) each, with the sign of a loss, the same at all tokens of a response that have one advantage."""
        return _clipped(_mean_log(log_ratio, mask).exp(), advantages, self.epsilon, self.epsilon_high)


@dataclass(frozen=True)
class GSPOToken(GSPO, holds_constant=True):
    """GSPO whose gradient at a token is weighed by the advantage of that token (Zheng et al. 2025, equations 13, 14).

    The ratio of a token has the value s, and the gradient of s log r with s held constant. With one advantage for a
    response it is `gspo`, loss and gradient; with advantages of tokens, such as those of `gae`, it keeps them apart.
    """

    def __call__(self, log_ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """(B, T) each, with the sign of a loss."""
        ratio = (_mean_log(log_ratio, mask).detach() + log_ratio - log_ratio.detach()).exp()
        return _clipped(ratio, advantages, self.epsilon, self.epsilon_high)


@dataclass(frozen=True)
class DualClip(PolicyLoss):
    """PPO whose loss at A < 0 is at most -A limit, however large r grows (Ye et al. 2020)."""

    epsilon: Epsilon = 0.2
    limit: Annotated[float, Field(gt=1, description="of the ratio where the advantage is negative")] = 3.0

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:  # (B, T)
        """The loss of each token; see the class."""
        loss = Clip(self.epsilon)(log_ratio, advantages)
        return loss.where(advantages >= 0, loss.minimum(-self.limit * advantages))


@dataclass(frozen=True)
class CISPO(PolicyLoss, holds_constant=True):
    """-A min(r, limit) log r with min(r, limit) held constant (MiniMax 2025, equations 4 and 5).

    The weight of a token is clipped and not its gradient, so that no token is left out of what is learned, as rare
    ones are by `clip`. Without a lower limit, as there.
    """

    limit: Annotated[float, Field(gt=0, description="of the ratio, as the weight of a token")] = 5.0

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:  # (B, T)
        """With the sign of a loss, 0 where r is 1."""
        return -advantages * log_ratio.exp().clamp(max=self.limit).detach() * log_ratio


@dataclass(frozen=True)
class SAPO(PolicyLoss):
    """-A sigmoid(tau (r - 1)) 4 / tau, tau by the sign of A (Gao et al. 2025, Soft Adaptive Policy Optimization).

    The gradient fades smoothly as r leaves 1, faster the larger tau is: by default faster where the advantage is
    negative. At r = 1 it is the policy gradient. The paper's reduction is `responses`.
    """

    tau_pos: Annotated[float, Field(gt=0, description="where the advantage is positive")] = 1.0
    tau_neg: Annotated[float, Field(gt=0, description="where it is not")] = 1.05

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:  # (B, T)
        """With the sign of a loss."""
        tau = advantages.new_tensor(self.tau_neg).where(advantages <= 0, self.tau_pos)
        return -advantages * (tau * log_ratio.expm1()).sigmoid() * 4 / tau


@dataclass(frozen=True)
class PolicyGradient(PolicyLoss):
    """-A r, without a clip: at r = 1 its gradient is the policy gradient -A grad log pi (Williams 1992)."""

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:  # (B, T)
        """The loss of each token; see the class."""
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
        """The loss of each token; see the class."""
        return -(advantages / self.beta).exp().clamp(max=self.limit) * log_ratio


def _clipped(ratio: Tensor, advantages: Tensor, low: float, high: float | None) -> Tensor:
    """max(-A r, -A clip(r, 1 - low, 1 + high)) of ratios that broadcast to (B, T); `high` is `low` where it is None."""
    clipped = ratio.clamp(1 - low, 1 + (low if high is None else high))
    return -(advantages * ratio).minimum(advantages * clipped)


def _mean_log(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """The mean over each response's tokens, (B, 1)."""
    return masked.mean(log_ratio, mask, dim=1).unsqueeze(1)


@hookimpl
def register_policy_loss() -> dict[str, type]:
    """The bundled losses."""
    return {
        "advantage_weighted": AdvantageWeighted,
        "cispo": CISPO,
        "clip": Clip,
        "dual_clip": DualClip,
        "gspo": GSPO,
        "gspo_token": GSPOToken,
        "policy_gradient": PolicyGradient,
        "sapo": SAPO,
    }
