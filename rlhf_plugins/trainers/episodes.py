"""A rollout as training needs it, and the minibatches that it is cut into; it holds tensors and computes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.branches import BranchBatch

if TYPE_CHECKING:
    from rlhf_plugins.trainers.passes import Seen


@dataclass(frozen=True)
class Piece:
    """Some of a rollout's responses, as one batch, and what is known of their tokens; all (b, t)."""

    rows: Tensor  # (b,) places in the rollout
    batch: BranchBatch
    log_probs: Tensor  # of what sampled the tokens, in nats
    reference: Tensor  # log-probabilities under the reference
    advantages: Tensor
    returns: Tensor
    values: Tensor | None


@dataclass(frozen=True)
class Minibatch:
    """The responses of one loss, in pieces that are computed one after the other."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Episodes:
    """B sampled responses of up to T tokens with all that was found out about them, in the order of sampling."""

    samples: Samples
    rewards: Tensor  # (B,) as the reward said
    scores: Tensor  # (B,) after shaping
    by_token: bool  # whether the reward spoke of single tokens
    paid: Tensor  # (B, T) reward of each token, less the KL where it is in the reward
    mask: Tensor  # (B, T) True at response tokens
    log_ratio: Tensor  # (B, T) log pi - log pi_ref, in nats
    entropies: Tensor  # (B, T) of the policy, in nats
    values: Tensor | None  # (B, T)
    advantages: Tensor  # (B, T)
    returns: Tensor  # (B, T)
    minibatches: tuple[Minibatch, ...]
    looked: Seen | None = None  # with its graph, where there is one piece in all: its first loss needs no other pass
