"""Chi-square distributionally robust optimisation: the loss under the worst reweighting of a batch within a ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from rlhf_plugins import RankedScores, RewardLoss, hookimpl, uses


@dataclass(frozen=True)
class ChiSquareDRO(RewardLoss, like="loss", uses_batch_mates=True, holds_constant=True):
    """max_q sum_i q_i L_i over distributions q on a batch with sum_i (n q_i - 1)^2 / (2 n) <= rho (Levy et al. 2020).

    The uncertainty set is the ball of the chi-square divergence around the batch; L is another loss, a row's number is
    n q_i L_i, so that their mean is the maximum, and its gradient is that at the fixed q (Danskin). While no q_i is 0
    it is mean(L) + sqrt(2 rho var(L)) (Duchi and Namkoong 2019, theorem 1). No topic is needed. A batch's maximum is
    above that of the whole data set on average, the more the smaller the batch.
    """

    loss: RewardLoss = uses("reward_loss", "bradley_terry")
    rho: Annotated[float, Field(gt=0, description="radius; from (n - 1) / 2 on the worst row of n counts alone")] = 0.5

    def __post_init__(self) -> None:
        if self.loss.builds:
            raise ValueError(f"loss: {self.loss.recipe_name} has weights; give one without")

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises what the inner loss raises."""
        losses: Tensor = self.loss(scores)
        return losses * worst_weights(losses.detach(), self.rho).to(losses.dtype)


def worst_weights(losses: Tensor, rho: float) -> Tensor:
    """n q_i at the maximum, (n,), float64: (L_i - eta)+ / mean((L - eta)+), for the eta at which q is on the sphere.

    Of the k largest losses, with mean m_k and variance v_k, eta = m_k - sqrt(n v_k / ((1 + 2 rho) k - n)); the k is
    right for which eta lies between the k-th and the next. Where none does, the largest share all weight equally.
    """
    ordered, order = losses.double().sort(descending=True)
    below = ordered - ordered[0]  # sums of squares of small numbers
    n, k = len(losses), torch.arange(1, len(losses) + 1, dtype=torch.float64, device=losses.device)
    mean = below.cumsum(0) / k
    variance = (below.square().cumsum(0) / k - mean.square()).clamp(min=0)
    room = (1 + 2 * rho) * k - n
    eta = mean - (n * variance / room.clamp(min=torch.finfo(torch.float64).tiny)).sqrt()
    following = torch.cat([below[1:], below.new_full((1,), -torch.inf)])
    right = (room > 0) & (eta < below) & (eta >= following)
    excess = (below - eta[right][0]).clamp(min=0) if right.any() else (below == 0).double()
    weights = torch.empty_like(excess)
    weights[order] = excess / excess.mean()
    return weights


@hookimpl
def register_reward_loss() -> dict[str, type]:
    """The loss of this file."""
    return {"chi_square_dro": ChiSquareDRO}
