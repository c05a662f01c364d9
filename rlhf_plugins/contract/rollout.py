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


@dataclass(frozen=True)
class Scored:
    """B responses and their rewards, which a `shaping` may change before the policy learns from them; all (B,)."""

    scores: Tensor
    lengths: Tensor  # tokens, EOS included
    ended: Tensor  # bool: by itself, with EOS


class Shaping(Protocol):
    """Changes rewards: normalises, clips, or takes something off; with `build()` where it remembers rollouts."""

    def __call__(self, scored: Scored) -> Tensor:
        """-> (B,) the rewards that count."""
        ...


class PolicyLoss(Protocol):
    """Loss of each sampled token.

    `uses_batch_mates = True` says that it looks at other responses of the minibatch, which then is trained whole. The
    same holds of a reduction, of a pull towards the reference and of its estimator.
    """

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """(B, T) log of the policy's probability over that of what sampled, and (B, T) -> (B, T)."""
        ...


class Reduction(Protocol):
    """Makes one number of the losses of a minibatch's tokens; one that is no weighted sum `uses_batch_mates`."""

    def __call__(self, losses: Tensor, mask: Tensor) -> Tensor:
        """(B, T) and bool (B, T) -> a scalar; what stands outside the mask does not count."""
        ...


class KLEstimator(Protocol):
    """Estimates KL(pi || pi_ref) in nats from a token that pi sampled.

    `has_gradient = False` says that its gradient in pi's weights is 0 on average, so that it is no use in a loss.
    """

    def __call__(self, log_ratio: Tensor) -> Tensor:
        """(B, T) log pi - log pi_ref -> (B, T)."""
        ...


@dataclass(frozen=True)
class Pull:
    """Where the distance from the reference counts; None is nowhere, both (B, T)."""

    off_reward: Tensor | None = None  # taken off the tokens' rewards
    on_loss: Tensor | None = None  # added to the tokens' losses


class KL(Protocol):
    """The pull towards the reference: how it is estimated, where it acts, and how strong it is."""

    @property
    def coef(self) -> float:
        """Its strength at the start."""
        ...

    def __call__(self, log_ratio: Tensor) -> Pull:
        """(B, T) log pi - log pi_ref, in nats -> what it weighs at a strength of 1."""
        ...

    def adapted(self, coef: float, kl: float, episodes: int) -> float:
        """The next strength, after `episodes` responses with a mean KL of `kl` nats a response."""
        ...
