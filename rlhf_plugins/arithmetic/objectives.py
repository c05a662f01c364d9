"""The arithmetic of policy optimisation that is no component: scores on tokens, value loss, KL of sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def lengths_and_mask(responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """The lengths (B,) of responses in tokens, and the mask (B, T) that is True at these; T is the largest length."""
    lengths = torch.tensor([len(ids) for ids in responses], dtype=torch.long)
    return lengths, torch.arange(max(map(len, responses), default=0)) < lengths.unsqueeze(1)


def at_the_end(scores: Tensor, mask: Tensor) -> Tensor:
    """Each response's score (B,) at its last token, 0 elsewhere, (B, T).

    The mask (B, T) is True at response tokens, which come first in each row; at least one per row.
    """
    last = mask.sum(1, keepdim=True) - 1  # (B, 1)
    return scores.new_zeros(mask.shape).scatter(1, last, scores.unsqueeze(1))


def by_potential(scores: Tensor, potentials: Tensor, mask: Tensor, discount: float) -> Tensor:
    """discount Phi(s_{t+1}) - Phi(s_t) at each token, and the score (B,) at the last one, (B, T).

    Potential-based shaping (Ng et al. 1999, theorem 1), with Phi = 0 before the first token and after the last, so that
    the discounted sum is that of the score alone.

    Args:
        scores: the scores of whole responses.
        potentials: (B, T) Phi of the state after each token.
        mask: (B, T) True at response tokens, which come first in each row.
        discount: the discount of the return that is maximised.
    """
    last = at_the_end(torch.ones_like(scores), mask)
    before = torch.nn.functional.pad(potentials[:, :-1], (1, 0))
    change = discount * potentials * (1 - last) - before
    return change.masked_fill(~mask, 0.0) + at_the_end(scores, mask)


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
