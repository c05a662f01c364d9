"""The arithmetic of policy optimisation: KL in the reward, clipped policy and value losses. No models, no options."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def penalised_rewards(scores: Tensor, log_ratio: Tensor, mask: Tensor, coef: float) -> Tensor:
    """Per-token rewards: minus the KL penalty everywhere, plus the score at each response's last token.

    r_t = -coef (log pi(a_t) - log pi_ref(a_t)) + [t = last] score        (Stiennon et al. 2020, section 3.4)

    Args:
        scores: (B,) reward of each response.
        log_ratio: (B, T) log pi - log pi_ref of each token, in nats.
        mask: (B, T) True at response tokens, which stand first in each row; at least one a row.
        coef: reward per nat.
    """
    rewards = (-coef * log_ratio).masked_fill(~mask, 0.0)
    last = mask.sum(1, keepdim=True) - 1  # (B, 1)
    return rewards.scatter_add(1, last, scores.to(rewards.dtype).unsqueeze(1))


def clipped_policy_loss(log_ratio: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    """PPO's per-token loss: max(-A r, -A clip(r, 1 - epsilon, 1 + epsilon)), r = exp(log_ratio).

    Schulman et al. 2017, equation 7, with the sign of a loss. All of shape (B, T); log_ratio is against the policy
    that sampled.
    """
    ratio = log_ratio.exp()
    return -(advantages * ratio).minimum(advantages * ratio.clamp(1 - epsilon, 1 + epsilon))


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, epsilon: float) -> Tensor:
    """Half the larger squared error of the value and of the value held within epsilon of its old one.

    1/2 max((v - R)^2, (clip(v, v_old - epsilon, v_old + epsilon) - R)^2), each (B, T)
    (Huang et al. 2024, "The N+ implementation details of RLHF with PPO").
    """
    held = values.clamp(old_values - epsilon, old_values + epsilon)
    return 0.5 * ((values - returns) ** 2).maximum((held - returns) ** 2)


def kl_estimate(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Monte Carlo KL(pi || pi_ref) of whole sequences sampled from pi: the mean of their summed log-ratios, in nats.

    Args:
        log_ratio: (B, T) log pi - log pi_ref of sampled tokens (k1 of Schulman 2020, unbiased).
        mask: (B, T) True at response tokens.
    """
    return log_ratio.masked_fill(~mask, 0.0).sum(1).mean()
