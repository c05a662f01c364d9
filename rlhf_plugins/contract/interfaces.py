"""The kinds of components of training: a base class for each, with its traits, its call and the check of its answer.

A component does its work in `__call__`. One with weights or state, or that needs the run, has a `build` instead, which
returns the object that does the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from rlhf_plugins.contract.component import COLUMNS, Component, answer_checks, trait

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from rlhf_plugins.contract.records import (
        MemberScores,
        PairLogps,
        Prediction,
        RankedScores,
        SamplerState,
        ScoredPairs,
    )
    from rlhf_plugins.contract.rollout import Advantages, KLTerm, Rollout, ScoredResponses
    from rlhf_plugins.contract.rows import Group

SYMMETRY = ("same", "follows")  # what the answer does when all rewards are shifted or scaled

NUMBERS = "numeric columns that every row must have, and which it is given as float32"
SOFT_LABELS = "reads soft labels, or does not depend on which response is better; others are refused soft labels"
BATCH_MATES = "an example's result depends on the others in its batch, which then is never cut into pieces"
SHIFT = "`same` where a number added to all rewards changes nothing, `follows` where the answer shifts with it"
SCALE = "`same` where a factor of all rewards changes nothing, `follows` where the answer scales with it"


# ---- reward models ---------------------------------------------------------------------------------------
class Pooling(Component, kind="pooling"):
    """Turns the hidden states of a sequence into one feature vector; with `build(width)` where it has weights."""

    reads_last: ClassVar[bool] = trait(False, "reads the last token alone, which the mask then marks")
    reads_sentences: bool = trait(
        False, "is given, after the mask, the number of the sentence that each token is in, (batch, length) from 0"
    )
    over: str = trait("sequence", "the tokens that the mask marks", choices=("sequence", "response"))

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, length, width) and bool (batch, length) -> (batch, width)."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Tensor:
        """(batch, width), finite."""
        return answer_checks().tensor(self, answer, (inputs[0].shape[0], inputs[0].shape[2]), inputs)


class RewardHead(Component, kind="reward_head"):
    """Builds the module that turns features into rewards."""

    dropout: float = trait(0.0, "probability of dropout in training")
    members: int = trait(1, "members of its predictions; a loss with state is built once for each of them")
    bootstrap: bool = trait(False, "its members learn from resampled rows")
    columns: ClassVar[frozenset[str]] = trait(frozenset(), NUMBERS)

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to (batch,) rewards, or to a `Prediction` where it predicts more.

        One that reads columns is called with the features and a mapping from column to (batch, ...).
        """
        raise NotImplementedError

    def examples(self, rows: int) -> Mapping[str, Tensor]:
        """Columns for the conformance kit, (rows, ...) each; by default 0, 1, 0, 1, ..."""
        import torch

        return dict.fromkeys(sorted(self.columns), torch.arange(rows) % 2.0)

    def checked(self, answer: Any, *inputs: Any) -> Prediction:
        """A Prediction with one row for each response."""
        return answer_checks().prediction(self, answer, inputs)


class RewardLoss(Component, kind="reward_loss"):
    """Loss of a reward model, one number per group; with `build()` instead where it has weights of its own.

    It is given pairs, chosen first, and a group's loss is the mean over its pairs, unless its traits say otherwise. One
    that needs `ranks` or `ratings` is given only groups in which at least two responses are placed, or one is rated.
    """

    needs: ClassVar[frozenset[str]] = trait(frozenset(), Component.traits["needs"].meaning, choices=COLUMNS)
    whole_groups: ClassVar[bool] = trait(False, "is given groups of up to K responses as they are, not pairs")
    takes_ties: ClassVar[bool] = trait(False, "is given tied pairs too")
    takes_probabilities: ClassVar[bool] = trait(False, SOFT_LABELS, join=all)
    columns: ClassVar[frozenset[str]] = trait(frozenset(), NUMBERS)
    uses_batch_mates: ClassVar[bool] = trait(False, BATCH_MATES)
    holds_constant: ClassVar[bool] = trait(False, "a part of it is detached on purpose, and has no gradient")
    under_shift: ClassVar[str | None] = trait(None, SHIFT, SYMMETRY)
    under_scale: ClassVar[str | None] = trait(None, SCALE, SYMMETRY)

    def __call__(self, scores: RankedScores) -> Tensor:
        """-> (groups,)."""
        raise NotImplementedError

    def learns_from(self, group: Group) -> bool:
        """Whether the group has anything that this loss, or one that it takes over traits from, could learn from."""
        if parts := self.held():
            return any(part.learns_from(group) for part in parts)
        if "ranks" in self.needs:
            return sum(rank is not None for rank in group.ranks or ()) > 1
        rated = any(value is not None for values in group.ratings.values() for value in values)
        if "ratings" in self.needs:
            return rated
        if self.whole_groups:
            return rated or bool(group.comparisons)
        return any(self.takes_ties or not c.tied or c.probability is not None for c in group.comparisons)

    def checked(self, answer: Any, *inputs: Any) -> Tensor:
        """(groups,), finite, with a gradient."""
        return answer_checks().tensor(self, answer, (len(inputs[0].scores),), inputs)


class Sampler(Component, kind="sampler"):
    """The order in which a reward model sees its examples; with `build()` where it has state of its own."""

    needs: ClassVar[frozenset[str]] = trait(frozenset(), Component.traits["needs"].meaning, choices=COLUMNS)

    def __call__(self, state: SamplerState) -> np.ndarray:
        """-> (state.size,) indices of the next batch; repeats, and examples that are not remaining, are allowed."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> np.ndarray:
        """state.size indices of examples."""
        return answer_checks().indices(answer, inputs[0])


class Aggregation(Component, kind="aggregation"):
    """Makes one reward of the rewards of an ensemble's members."""

    reads_accuracy: ClassVar[bool] = trait(
        False, "reads each member's accuracy, measured on what its bootstrap left out"
    )
    reads_topics: ClassVar[bool] = trait(
        False, "reads each member's accuracy on a response's topic, which the column `topic` of the samples names"
    )
    compares_siblings: ClassVar[bool] = trait(
        False,
        "its reward is the share of the prompt's other responses that a response beats, so that it scores none alone",
    )
    shares: ClassVar[bool] = trait(
        False, "its rewards are shares of votes, so that the share of members that order a pair is its probability"
    )
    under_shift: ClassVar[str | None] = trait(None, SHIFT, SYMMETRY)
    under_scale: ClassVar[str | None] = trait(None, SCALE, SYMMETRY)

    def fits(self, members: int) -> None:
        """Raises ValueError where it cannot aggregate so many members."""

    def __call__(self, members: MemberScores) -> Tensor:
        """-> (B,)."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Tensor:
        """(B,), finite."""
        return answer_checks().tensor(self, answer, (inputs[0].rewards.shape[1],), inputs)


class Metric(Component, kind="metric"):
    """A measure of a reward model on held-out pairs."""

    reads_clock: ClassVar[bool] = trait(False, "measures time, so that two calls differ")
    under_shift: ClassVar[str | None] = trait(None, SHIFT, SYMMETRY)

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> named numbers, NaN where nothing could be measured; a name is the metric's own or begins with it."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Mapping[str, float]:
        """Numbers by name."""
        return answer_checks().numbers(answer)


# ---- policies --------------------------------------------------------------------------------------------
class PreferenceLoss(Component, kind="preference_loss"):
    """Loss of a policy on preference pairs, one number per pair; with `build()` where it has state."""

    needs: ClassVar[frozenset[str]] = trait(frozenset(), Component.traits["needs"].meaning, choices=COLUMNS)
    takes_probabilities: ClassVar[bool] = trait(False, SOFT_LABELS, join=all)
    uses_batch_mates: ClassVar[bool] = trait(False, BATCH_MATES)
    holds_constant: ClassVar[bool] = trait(False, "a part of it is detached on purpose, and has no gradient")
    reads_entropy: ClassVar[bool] = trait(False, "is given the entropies of the policy's next tokens")
    reads_reference: ClassVar[bool] = trait(
        True, "reads the reference's log-probabilities; one that does not is given NaN, and no reference is computed"
    )
    unpaired: ClassVar[bool] = trait(
        False,
        "is given a labelled response as `chosen`, its label (1 desirable, 0 not) as `probability`, and another "
        "prompt's response as `rejected`",
    )

    def __call__(self, logps: PairLogps) -> Tensor:
        """-> (pairs,)."""
        raise NotImplementedError

    def betas(self) -> frozenset[float]:
        """The scales of its implicit rewards beta (log pi - log pi_ref): its option `beta`, or those of its parts."""
        own = getattr(self, "beta", None)
        parts = (part.betas() for part in self.held() if part.reads_reference)
        return frozenset().union(*parts) if own is None else frozenset({own})

    def checked(self, answer: Any, *inputs: Any) -> Tensor:
        """(pairs,), finite, with a gradient."""
        return answer_checks().tensor(self, answer, tuple(inputs[0].chosen.shape), inputs)


class Advantage(Component, kind="advantage"):
    """Estimates how much better each token was than expected; with `build()` where it has state."""

    reads_values: ClassVar[bool] = trait(False, "is given the values of a critic, which then is trained")
    reads_baseline: ClassVar[bool] = trait(False, "is given the scores of greedy responses")
    min_group: ClassVar[int] = trait(1, "the least number of responses to a prompt that it can compare")
    whitens: ClassVar[bool] = trait(False, "its advantages are scaled to mean 0 and variance 1 over all tokens")
    uses_batch_mates: ClassVar[bool] = trait(False, "a response's advantage depends on responses to other prompts")

    def __call__(self, rollout: Rollout) -> Advantages:
        """Pure arithmetic on one rollout."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Advantages:
        """Advantages and returns, both (B, T), finite."""
        return answer_checks().advantages(self, answer, inputs[0])


class PolicyLoss(Component, kind="policy_loss"):
    """Loss of each sampled token; with `build()` where it has state."""

    uses_batch_mates: ClassVar[bool] = trait(False, BATCH_MATES)
    off_policy: ClassVar[bool] = trait(
        False, "learns from responses of any policy; it is given log pi in the place of the log-ratio"
    )
    reads_mask: ClassVar[bool] = trait(
        False, "is given, after the advantages, which tokens are the response's, bool (B, T)"
    )
    holds_constant: ClassVar[bool] = trait(False, "a part of it is detached on purpose, and has no gradient")

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """(B, T) log pi - log pi_old, pi_old the policy that sampled, and (B, T) advantages -> (B, T)."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Tensor:
        """(B, T), finite, with a gradient."""
        return answer_checks().tensor(self, answer, tuple(inputs[0].shape), inputs)


class Reduction(Component, kind="reduction"):
    """Reduces the losses of a minibatch's tokens to one number; with `build()` where it has state."""

    uses_batch_mates: ClassVar[bool] = trait(
        False, "is no weighted sum of the losses, so that a minibatch is never cut"
    )

    def __call__(self, losses: Tensor, mask: Tensor) -> Tensor:
        """(B, T) and bool (B, T) -> a scalar; losses outside the mask do not count."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Tensor:
        """A finite scalar."""
        return answer_checks().tensor(self, answer, (), inputs)


class KLEstimator(Component, kind="kl_estimator"):
    """Estimates KL(pi || pi_ref) in nats from a token that pi sampled."""

    has_gradient: ClassVar[bool] = trait(True, "its gradient is not 0 on average, so that it is of use in a loss")
    uses_batch_mates: ClassVar[bool] = trait(False, BATCH_MATES)

    def __call__(self, log_ratio: Tensor) -> Tensor:
        """(B, T) log pi - log pi_ref -> (B, T)."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Tensor:
        """(B, T), finite."""
        return answer_checks().tensor(self, answer, tuple(inputs[0].shape), inputs)


class KL(Component, kind="kl"):
    """The KL term towards the reference: how it is estimated, where it enters, and how strong it is.

    With `build()` where its controller has state; what is built may have its own `adapted` and `accepts`.
    """

    handed_down: ClassVar[tuple[str, ...]] = ("accepts", "adapted", "coef")
    uses_batch_mates: ClassVar[bool] = trait(False, BATCH_MATES)
    constrains: ClassVar[bool] = trait(False, "is a limit: each update is halved until `accepts` takes it")
    coef: float

    def __call__(self, log_ratio: Tensor) -> KLTerm:
        """(B, T) log pi - log pi_ref, in nats -> the term before it is multiplied by the coefficient."""
        raise NotImplementedError

    def accepts(self, kl: float, before: float) -> bool:
        """Whether an update may be kept, from the KL in nats per token after it (`kl`) and `before` it."""
        return True

    def adapted(self, coef: float, kl: float, episodes: int) -> float:
        """The next coefficient, after `episodes` responses with a mean KL of `kl` nats per response."""
        return coef

    def checked(self, answer: Any, *inputs: Any) -> KLTerm:
        """(B, T) where it enters."""
        return answer_checks().kl_term(self, answer, inputs[0])


class Shaping(Component, kind="shaping"):
    """Changes rewards: normalises, clips, or subtracts; with `build()` where it has state."""

    ranks_rollout: ClassVar[bool] = trait(False, "compares the rewards of a rollout, so that all must be there at once")

    def __call__(self, scored: ScoredResponses) -> Tensor:
        """-> (B,) the rewards that count, or (B, T) one per token."""
        raise NotImplementedError

    def checked(self, answer: Any, *inputs: Any) -> Tensor:
        """(B,) or (B, T), finite."""
        return answer_checks().shaped(self, answer, inputs[0])
