"""A rollout as training needs it, and the minibatches that it is cut into; it holds tensors and computes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.rows import Samples
    from rlhf_plugins.data.branches import BranchBatch
    from rlhf_plugins.trainers.passes import Outputs
    from rlhf_plugins.trainers.scoring import ResponseRewards


@dataclass(frozen=True)
class MicroBatch:
    """Responses of a rollout that are computed together, and what is known of their tokens; all (b, t)."""

    rows: Tensor  # (b,) places in the rollout
    batch: BranchBatch
    log_probs: Tensor  # under the distribution that sampled the tokens, in nats
    reference: Tensor  # log-probabilities under the reference
    advantages: Tensor
    returns: Tensor
    values: Tensor | None


@dataclass(frozen=True)
class Minibatch:
    """The responses of one loss, in micro-batches that are computed one by one; none where all were left out."""

    micro_batches: tuple[MicroBatch, ...]


@dataclass(frozen=True)
class ScoredSamples:
    """The responses of a rollout that have a reward, before any model has read them."""

    samples: Samples
    rewards: ResponseRewards
    group: Tensor  # (B,) equal for responses to one prompt
    baseline: Tensor | None  # (B,) scores of greedy responses
    sampled: int  # responses in all
    abstained: int  # responses left out because there is no reward
    without_baseline: int  # responses left out because the greedy response to their prompt has no reward
    too_few: int  # responses left out because too few responses to their prompt have a reward


@dataclass(frozen=True)
class Episodes:
    """B sampled responses of up to T tokens with all that was computed of them, in the order of sampling."""

    samples: Samples
    rewards: ResponseRewards
    token_rewards: Tensor  # (B, T) less the KL where it is in the reward
    mask: Tensor  # (B, T) True at response tokens
    log_ratio: Tensor  # (B, T) log pi - log pi_ref, in nats
    entropies: Tensor  # (B, T) of the policy, in nats
    values: Tensor | None  # (B, T)
    advantages: Tensor  # (B, T)
    returns: Tensor  # (B, T)
    minibatches: tuple[Minibatch, ...]
    baseline: Tensor | None = None  # (B,) scores of greedy responses
    outputs: Outputs | None = None  # with its graph, where there is one micro-batch in all: its first loss uses it

    @property
    def equal_rewards(self) -> bool:
        """Whether nothing can be learned, because several responses all have the same score and no token its own.

        With a baseline, each score is compared with its own.
        """
        scores = self.rewards.scores
        equal = scores.max() == scores.min() if self.baseline is None else (scores == self.baseline).all()
        return not self.rewards.by_token and len(scores) > 1 and bool(equal)
