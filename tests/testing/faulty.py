"""Components of every other kind with one fault each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlhf_plugins import (
    KL,
    Advantage,
    Advantages,
    Aggregation,
    KLEstimator,
    KLTerm,
    MemberScores,
    Metric,
    PolicyLoss,
    Pooling,
    Prediction,
    Reduction,
    RewardHead,
    Rollout,
    Sampler,
    SamplerState,
    ScoredPairs,
    ScoredResponses,
    Shaping,
    uses,
)


# ---- poolings --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class LastColumn(Pooling):
    """The last column is the last token only where nothing is padded on the right."""

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[:, -1]


@dataclass(frozen=True)
class CountedFromLeft(Pooling):
    """Finds the last token by the mask's length: right for padding on the right alone."""

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[torch.arange(len(hidden)), (mask.sum(1) - 1).clamp(min=0)] * mask.any(1, keepdim=True)


@dataclass(frozen=True)
class NoToken(Pooling):
    """A sequence of which nothing is marked is divided by 0."""

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)


# ---- heads -----------------------------------------------------------------------------------------------
class _Forgetful(nn.Module):
    """Keeps its layers in a list, where neither the optimizer nor `state_dict` finds them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.layers = [nn.Linear(width, 1)]

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * self.layers[0](features).squeeze(-1)


@dataclass(frozen=True)
class Forgetful(RewardHead):
    """A head that is saved without its weights."""

    def build(self, width: int) -> nn.Module:
        return _Forgetful(width)


class _Drifting(nn.Module):
    """A random projection that is not part of the state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.register_buffer("projection", torch.randn(width, width), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features @ self.projection).squeeze(-1)


@dataclass(frozen=True)
class Drifting(RewardHead):
    """A head of which a part is drawn again when it is loaded."""

    def build(self, width: int) -> nn.Module:
        return _Drifting(width)


_MADE: dict[int, nn.Module] = {}


@dataclass(frozen=True)
class Shared(RewardHead):
    """Builds one module for everybody."""

    def build(self, width: int) -> nn.Module:
        return _MADE.setdefault(width, nn.Sequential(nn.Linear(width, 1), nn.Flatten(0)))


class _Column(nn.Linear):
    """Answers (batch, 1)."""


@dataclass(frozen=True)
class Column(RewardHead):
    """Rewards in a column, which a loss broadcasts."""

    def build(self, width: int) -> nn.Module:
        return _Column(width, 1)


class _Normed(nn.Module):
    """Normalises over the batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Prediction:
        reward = self.linear(features).squeeze(-1)
        return Prediction(reward - reward.mean())


@dataclass(frozen=True)
class Normed(RewardHead):
    """A reward that hangs on the batch."""

    def build(self, width: int) -> nn.Module:
        return _Normed(width)


# ---- advantages ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class MaskForgotten(Advantage):
    """Sums what follows the end of a response."""

    def __call__(self, rollout: Rollout) -> Advantages:
        whole = rollout.rewards.sum(1, keepdim=True).expand_as(rollout.rewards)
        return Advantages(whole.masked_fill(~rollout.mask, 0.0), whole.masked_fill(~rollout.mask, 0.0))


@dataclass(frozen=True)
class ZeroDeviation(Advantage):
    """Divides by the deviation of a group, which is 0 where all rewards are equal."""

    def __call__(self, rollout: Rollout) -> Advantages:
        same = (rollout.group.unsqueeze(0) == rollout.group.unsqueeze(1)).float()
        centred = rollout.scores - same @ rollout.scores / same.sum(1)
        ratio = centred / (same @ centred**2 / same.sum(1)).sqrt()
        whole = ratio.unsqueeze(1).expand_as(rollout.rewards).masked_fill(~rollout.mask, 0.0)
        return Advantages(whole, whole)


@dataclass(frozen=True)
class BatchWhitened(Advantage):
    """Centres over the batch, and does not say that it uses batch mates."""

    def __call__(self, rollout: Rollout) -> Advantages:
        centred = (rollout.scores - rollout.scores.mean()).unsqueeze(1).expand_as(rollout.rewards)
        return Advantages(centred.masked_fill(~rollout.mask, 0.0), centred.masked_fill(~rollout.mask, 0.0))


@dataclass(frozen=True)
class Undone(Advantage, whitens=True):
    """A constant baseline, which whitening takes off again."""

    baseline: float = 0.0

    def __call__(self, rollout: Rollout) -> Advantages:
        to_go = (
            rollout.rewards.masked_fill(~rollout.mask, 0.0).flip(1).cumsum(1).flip(1).masked_fill(~rollout.mask, 0.0)
        )
        return Advantages((to_go - self.baseline).masked_fill(~rollout.mask, 0.0), to_go)


# ---- aggregations ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Standardised(Aggregation):
    """Puts members on one scale by the batch's own mean and deviation."""

    def __call__(self, members: MemberScores) -> Tensor:
        mean = members.rewards.mean(1, keepdim=True)
        return (members.rewards - mean).mean(0)


@dataclass(frozen=True)
class Unseen(Aggregation):
    """`alpha` is never used."""

    alpha: float = 1.0

    def __call__(self, members: MemberScores) -> Tensor:
        return members.rewards.mean(0)


# ---- samplers --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class GlobalRandom(Sampler):
    """Draws from NumPy's global generator."""

    def __call__(self, draw: SamplerState) -> np.ndarray:
        return np.random.permutation(np.flatnonzero(draw.remaining))[: draw.size]


@dataclass(frozen=True)
class TooFew(Sampler):
    """Draws among the examples with a loss, of which there may be too few."""

    def __call__(self, draw: SamplerState) -> np.ndarray:
        known = np.flatnonzero(np.isfinite(draw.loss))
        return draw.rng.permutation(known)[: draw.size]


@dataclass(frozen=True)
class Emptied(Sampler):
    """Marks what it drew in the trainer's own record."""

    def __call__(self, draw: SamplerState) -> np.ndarray:
        rows = draw.rng.permutation(np.flatnonzero(draw.remaining))[: draw.size]
        draw.remaining[rows] = False
        return rows


# ---- metrics ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Undefined(Metric):
    """A share of no pairs is NaN."""

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        wrong = pairs.chosen[pairs.chosen < pairs.rejected]
        with np.errstate(all="ignore"):
            return {"undefined": float(np.sum(wrong) / np.float64(len(wrong)))}


@dataclass(frozen=True)
class FirstHalf(Metric):
    """Measures the first half of the pairs."""

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        half = (len(pairs.chosen) + 1) // 2
        return {"first_half": float((pairs.chosen > pairs.rejected)[:half].mean())}


# ---- what a policy learns by -----------------------------------------------------------------------------
@dataclass(frozen=True)
class TokenMean(PolicyLoss):
    """Sums over the tokens, which is the reduction's to do."""

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        return -(advantages * log_ratio.exp()).mean(1)


@dataclass(frozen=True)
class PaddedMean(PolicyLoss, reads_mask=True):
    """Takes the mean ratio of a response over its padding too."""

    def __call__(self, log_ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return -advantages * log_ratio.mean(1, keepdim=True).exp()


@dataclass(frozen=True)
class OneForAll(PolicyLoss, reads_mask=True):
    """Takes one ratio for all responses of a batch."""

    def __call__(self, log_ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return -advantages * log_ratio[mask].mean().exp()


@dataclass(frozen=True)
class Centred(KLEstimator, has_gradient=True):
    """Takes the mean of the minibatch off each token's estimate."""

    def __call__(self, log_ratio: Tensor) -> Tensor:
        return log_ratio - log_ratio.mean()


@dataclass(frozen=True)
class StrengthFixed(KL):
    """Pulls with a strength that the recipe cannot set."""

    estimator: Any = uses("kl_estimator", "k1")
    per_word: bool = False
    coef: float = 0.05
    adapt: None = None

    def adapted(self, coef: float, kl: float, episodes: int) -> float:
        return self.coef

    def __call__(self, log_ratio: Tensor) -> KLTerm:
        return KLTerm(off_reward=self.estimator(log_ratio))


@dataclass(frozen=True)
class Unweighed(Reduction):
    """A reduction with a weight that nothing reads."""

    weight_of_prompts: float = 1.0

    def __call__(self, losses: Tensor, mask: Tensor) -> Tensor:
        return losses[mask].mean()


@dataclass(frozen=True)
class Uncapped(Shaping):
    """Shapes nothing, whatever its ceiling."""

    ceiling: float = 5.0

    def __call__(self, scored: ScoredResponses) -> Tensor:
        return scored.scores
