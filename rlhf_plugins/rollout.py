"""What online training passes around: the records that its components see, and what each kind answers.

It knows shapes and names, no arithmetic; torch appears only as an annotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """B sampled responses of up to T tokens with what an advantage estimator may read."""

    scores: Tensor  # (B,) reward of the whole response
    rewards: Tensor  # (B, T) per token: KL penalty, and the score at the last token
    values: Tensor | None  # (B, T) value of the state before each token; None where no critic is trained
    mask: Tensor  # (B, T) True at response tokens
    group: Tensor  # (B,) equal for rollouts of one prompt
    log_probs: Tensor | None = None  # (B, T) of each token under the policy, in nats
    baseline: Tensor | None = None  # (B,) score of the greedy response to the prompt; None unless it is asked for


@dataclass(frozen=True)
class Advantages:
    """What an estimator makes of a rollout; both (B, T) and 0 outside the mask."""

    advantages: Tensor
    returns: Tensor  # what values are trained to predict


class Advantage(Protocol):
    """Estimates how much better each token was than expected.

    It may say more of what it needs in class variables: `min_group = 2` where it compares the responses of a prompt,
    `needs_baseline = True` to be given the scores of greedy responses, `whiten = False` where its numbers are not to
    be shifted and scaled to mean 0 and variance 1 over the rollout's tokens.
    """

    needs_values: ClassVar[bool]  # False loads no critic

    def __call__(self, rollout: Rollout) -> Advantages:
        """Pure arithmetic on one rollout."""
        ...
