"""Advantage estimators: arithmetic on one rollout.

G_t = sum_{k >= t} r_k is the reward to go, R = G_1 the reward of a whole response, and i runs over the n responses to
one prompt. Those that compare whole responses give every token of a response the same advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from rlhf_plugins.arithmetic import masked
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Advantage
from rlhf_plugins.contract.rollout import Advantages

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.rollout import Rollout

Gamma = Annotated[float, Field(ge=0, le=1, description="discount per token")]


@dataclass(frozen=True)
class GAE(Advantage, reads_values=True, whitens=True):
    """Generalised advantage estimation: A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t.

    V is 0 after a response's last token; returns are A_t + V_t (Schulman et al. 2016, equation 16).
    """

    gamma: Gamma = 1.0  # this and `lam`: Huang et al. 2024, table of hyperparameters
    lam: Annotated[float, Field(ge=0, le=1, description="0 is one-step TD, 1 is Monte Carlo")] = 0.95

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask."""
        values = _values(rollout)
        advantages = _to_go(_errors(rollout, self.gamma), rollout.mask, self.gamma * self.lam)
        return Advantages(advantages, advantages + values)


@dataclass(frozen=True)
class TD(Advantage, reads_values=True, whitens=True):
    """One-step temporal difference: A_t = r_t + gamma V_{t+1} - V_t, returns r_t + gamma V_{t+1} (Sutton 1988).

    It is GAE at lam = 0: of low variance, and biased as far as V is wrong.
    """

    gamma: Gamma = 1.0

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask."""
        errors = _errors(rollout, self.gamma).masked_fill(~rollout.mask, 0.0)
        return Advantages(errors, errors + _values(rollout))


@dataclass(frozen=True)
class MonteCarlo(Advantage):
    """REINFORCE: A_t = G_t = sum_{k >= t} gamma^(k-t) r_k (Williams 1992)."""

    gamma: Gamma = 1.0

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask."""
        to_go = _to_go(rollout.rewards, rollout.mask, self.gamma)
        return Advantages(to_go, to_go)


@dataclass(frozen=True)
class ReinforceBaseline(Advantage, uses_batch_mates=True):
    """REINFORCE with the batch as its baseline: A_t = G_t - mean_j R_j over all B responses.

    Reinforcement comparison (Williams 1992). A response's own share of the mean shrinks its gradient by
    1/B, which is no bias of direction. GAE at lam = 1 is REINFORCE with a learned baseline.
    """

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask."""
        to_go = _to_go(rollout.rewards, rollout.mask)
        return Advantages((to_go - to_go[:, 0].mean()).masked_fill(~rollout.mask, 0.0), to_go)


@dataclass(frozen=True)
class RLOO(Advantage, min_group=2):
    """Leave one out: A_i = R_i - 1/(n-1) sum_{j != i} R_j (Kool et al. 2019; Ahmadian et al. 2024)."""

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask. Raises ValueError when a prompt has a single response."""
        whole = _whole(rollout)
        return _same_for_all_tokens(whole - _mean_of_others(whole, torch.ones_like(whole), rollout.group), rollout)


@dataclass(frozen=True)
class GRPO(Advantage, min_group=2):
    """Group-relative: A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-4) (Shao et al. 2024, section 4.1.2).

    The standard deviation is the sample's (n - 1), as in TRL; where all n are equal the advantage is 0.
    """

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask. Raises ValueError when a prompt has a single response."""
        centred = _centred(_whole(rollout), rollout.group)
        same = _same_prompt(rollout.group).to(centred.dtype)
        variance = (same @ centred**2) / (same.sum(1) - 1)
        return _same_for_all_tokens(centred / (variance.sqrt() + 1e-4), rollout)


@dataclass(frozen=True)
class GRPOBatch(Advantage, min_group=2, uses_batch_mates=True):
    """GRPO over the rollout's deviation: A_i = (R_i - mean_j R_j) / (std R + 1e-4) (Liu et al. 2025, Tricks or Traps).

    The standard deviation is that of the sample of all B responses, TRL's `scale_rewards="batch"`: a prompt whose
    rewards hardly differ is not scaled up.
    """

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask. Raises ValueError when a prompt has a single response."""
        whole = _whole(rollout)
        return _same_for_all_tokens(_centred(whole, rollout.group) / (whole.std() + 1e-4), rollout)


@dataclass(frozen=True)
class DrGRPO(Advantage, min_group=2):
    """GRPO done right: A_i = R_i - mean_j R_j, not divided by the group's deviation (Liu et al. 2025).

    The paper's other half is `reduction: {use: constant}`, which does not divide a response's loss by its length.
    """

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask. Raises ValueError when a prompt has a single response."""
        return _same_for_all_tokens(_centred(_whole(rollout), rollout.group), rollout)


@dataclass(frozen=True)
class ReinforcePlusPlus(Advantage, uses_batch_mates=True):
    """REINFORCE++: A_t = G_t, shifted and scaled to mean 0 and variance 1 over all tokens (Hu 2025).

    G_t holds the KL penalties of the tokens from t on.
    """

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask."""
        to_go = _to_go(rollout.rewards, rollout.mask)
        return Advantages(masked.whiten(to_go, rollout.mask), to_go)


@dataclass(frozen=True)
class ReinforcePlusPlusBaseline(Advantage, min_group=2, uses_batch_mates=True):
    """REINFORCE++ with a baseline: R_i - mean_j R_j for each token, scaled to variance 1 over all tokens (Hu 2025)."""

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask. Raises ValueError when a prompt has a single response."""
        centred = _same_for_all_tokens(_centred(_whole(rollout), rollout.group), rollout)
        return Advantages(masked.whiten(centred.advantages, rollout.mask), centred.returns)


@dataclass(frozen=True)
class ReMax(Advantage, reads_baseline=True):
    """A_t = G_t - score of the greedy response to the prompt (Li et al. 2024)."""

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask."""
        assert rollout.baseline is not None  # it was asked for
        to_go = _to_go(rollout.rewards, rollout.mask)
        return Advantages((to_go - rollout.baseline.unsqueeze(1)).masked_fill(~rollout.mask, 0.0), to_go)


@dataclass(frozen=True)
class WeightedRLOO(Advantage, min_group=2):
    """RLOO that weighs the others: A_i = R_i - sum_{j != i} w_j R_j / sum_{j != i} w_j, w_j = sum_t (1 - pi(a_t))^2.

    w is the squared norm of grad log pi(response) in the logits: a token's is |e_a - pi|^2, between (1 - pi_a)^2 and
    twice that, and the products of different tokens' gradients have mean 0. So it estimates the constant baseline of
    least gradient variance for a prompt, E[w R] / E[w] (Greensmith et al. 2004). It is not the per-state baseline
    b*(s_t), a mean over the actions of one state, since a prefix is sampled once. The estimate is itself noisy: beside
    RLOO the variance is the same with 2 responses to a prompt, mostly larger with 4, and smaller from about 16 on.
    """

    def __call__(self, rollout: Rollout) -> Advantages:
        """Both results are (B, T), 0 outside the mask. Raises ValueError when a prompt has a single response."""
        assert rollout.log_probs is not None
        surprise = (-rollout.log_probs.expm1()).masked_fill(~rollout.mask, 0.0)  # (B, T) 1 - pi(a_t)
        norms = (surprise**2).sum(1).clamp(min=1e-8)  # (B,)
        whole = _whole(rollout)
        return _same_for_all_tokens(whole - _mean_of_others(whole, norms, rollout.group), rollout)


def _values(rollout: Rollout) -> Tensor:
    assert rollout.values is not None  # a critic was asked for
    return rollout.values.masked_fill(~rollout.mask, 0.0)


def _errors(rollout: Rollout, gamma: float) -> Tensor:
    """r_t + gamma V_{t+1} - V_t, (B, T); outside the mask it means nothing."""
    values = _values(rollout)
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)  # V_{t+1}
    return rollout.rewards + gamma * after - values


def _to_go(rewards: Tensor, mask: Tensor, discount: float = 1.0) -> Tensor:
    """sum_{k >= t} discount^(k-t) r_k, (B, T), 0 outside the mask."""
    rewards = rewards.masked_fill(~mask, 0.0)
    sums = torch.zeros_like(rewards)
    carried = torch.zeros_like(rewards[:, 0])  # (B,)
    for t in reversed(range(rewards.shape[1])):
        carried = rewards[:, t] + discount * carried
        sums[:, t] = carried
    return sums.masked_fill(~mask, 0.0)


def _whole(rollout: Rollout) -> Tensor:
    """R of each response, (B,)."""
    return rollout.rewards.masked_fill(~rollout.mask, 0.0).sum(1)


def _same_prompt(group: Tensor) -> Tensor:
    """Whether two responses answer one prompt, (B, B) bool. Raises ValueError when one has no sibling."""
    same = group.unsqueeze(1) == group
    if (same.sum(1) < 2).any():
        raise ValueError("it compares the responses to a prompt, and a prompt has a single one")
    return same


def _centred(whole: Tensor, group: Tensor) -> Tensor:
    """R_i less the mean over its prompt, (B,); exactly 0 where all are equal, whatever a mean of them rounds to."""
    mates = _same_prompt(group)
    shifted, same = whole - whole[mates.int().argmax(1)], mates.to(whole.dtype)
    return shifted - (same @ shifted) / same.sum(1)


def _mean_of_others(whole: Tensor, weight: Tensor, group: Tensor) -> Tensor:
    """The weighted mean of R over the other responses to each response's prompt, (B,)."""
    shares = _same_prompt(group).to(whole.dtype).fill_diagonal_(0.0) * weight  # (B, B)
    return (shares @ whole) / shares.sum(1)


def _same_for_all_tokens(advantage: Tensor, rollout: Rollout) -> Advantages:
    tokens = advantage.unsqueeze(1) * rollout.mask
    return Advantages(tokens, _to_go(rollout.rewards, rollout.mask))


@hookimpl
def register_advantage() -> dict[str, type]:
    """The bundled estimators."""
    return {
        "dr_grpo": DrGRPO,
        "gae": GAE,
        "grpo": GRPO,
        "grpo_batch": GRPOBatch,
        "monte_carlo": MonteCarlo,
        "reinforce_baseline": ReinforceBaseline,
        "reinforce_plus_plus": ReinforcePlusPlus,
        "reinforce_plus_plus_baseline": ReinforcePlusPlusBaseline,
        "remax": ReMax,
        "rloo": RLOO,
        "td": TD,
        "weighted_rloo": WeightedRLOO,
    }
