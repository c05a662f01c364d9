"""Inputs and outputs of the components of online training: rollouts, advantages, rewards, the KL term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """B sampled responses of up to T tokens, with all that an advantage estimator may read."""

    scores: Tensor  # (B,) reward of the whole response
    rewards: Tensor  # (B, T) per token: KL penalty, and the score at the last token
    values: Tensor | None  # (B, T) value of the state before each token; None where no critic is trained
    mask: Tensor  # (B, T) True at response tokens
    group: Tensor  # (B,) equal for rollouts of one prompt
    log_probs: Tensor | None = None  # (B, T) log-probability of each token under the policy, in nats
    baseline: Tensor | None = None  # (B,) score of the greedy response to the prompt; None unless `reads_baseline`


@dataclass(frozen=True)
class Advantages:
    """The output of an estimator; both (B, T) and 0 outside the mask."""

    advantages: Tensor
    returns: Tensor  # what values are trained to predict


@dataclass(frozen=True)
class ScoredResponses:
    """B responses with their rewards, which a `shaping` may change before the policy learns from them."""

    scores: Tensor  # (B,)
    lengths: Tensor  # (B,) tokens, EOS included
    ended: Tensor  # (B,) bool: whether it ended with EOS, and was not cut
    tokens: Tensor | None = None  # (B, T) where the reward or an earlier shaping gave each token a number


@dataclass(frozen=True)
class KLTerm:
    """The KL to the reference, per token, where it enters; both (B, T), None where it does not."""

    off_reward: Tensor | None = None  # subtracted from the tokens' rewards
    on_loss: Tensor | None = None  # added to the tokens' losses
