"""Inputs and outputs of components: predictions, judged groups, log-probabilities, scored pairs, with their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from rlhf_plugins.contract.rows import Rewrite


@dataclass(frozen=True)
class Prediction:
    """The outputs of a reward head for B responses. Only `reward` is needed; there may be more leading dimensions."""

    reward: Tensor  # (B,)
    variance: Tensor | None = None  # (B,) variance of the rewards that people would give: aleatoric uncertainty
    dimensions: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (B,), of a reward NaN where it has none
    quantiles: Tensor | None = None  # (B, Q) quantiles of the reward, at the levels (q + 1/2) / Q
    members: Tensor | None = None  # (B, M) rewards by the members of an ensemble
    features: Tensor | None = None  # (B, width) the head's input; the model fills it in
    tokens: Tensor | None = None  # (B, T) a reward for each token; `reward` is then their sum
    abstained: Tensor | None = None  # (B,) bool, True where there is no reward: the number there means nothing
    each: tuple[Prediction, ...] = ()  # the outputs of each member, while an ensemble of heads is trained
    shares: bool = False  # rewards are shares of votes: members, not reward differences, give a pair's probability
    compared: bool = False  # rewards are shares of the prompt's other responses that each beats


@dataclass(frozen=True)
class Compared:
    """P comparisons within a batch of groups, all (P,)."""

    group: Tensor  # row of the batch
    better: Tensor  # place in the group
    worse: Tensor
    tied: Tensor  # bool
    margin: Tensor  # 0 where a comparison has none
    weight: Tensor
    probability: Tensor  # soft label: how likely `better` is better; 1 where it is certain, 1/2 where the two tie


@dataclass(frozen=True)
class RankedScores:
    """The scores of a batch of groups with up to K responses each, and the judgements of people.

    A pair has its chosen response first. `RankedScores.of` fills in what is left out.
    """

    scores: Tensor  # (groups, K) rewards
    margin: Tensor  # (groups,), 0 where a row has none
    weight: Tensor  # (groups,)
    ranks: Tensor  # (groups, K) 0 best, -1 not placed
    present: Tensor  # (groups, K) False where there is no response
    topic: Tensor  # (groups,) int codes from 0
    probability: Tensor  # (groups,) of pairs: how likely the first is better; 1 where certain, 1/2 where tied
    ratings: Mapping[str, Tensor] = field(default_factory=dict)  # dimension -> (groups, K), NaN missing
    compared: Compared | None = None  # None: every pair that the ranks order
    prediction: Prediction | None = None  # all outputs of the head, (groups, K, ...)
    columns: Mapping[str, Tensor] = field(default_factory=dict)  # columns that a loss or head reads, (groups, ...)

    @classmethod
    def of(cls, scores: Tensor, margin: Tensor | None = None, **known: Any) -> RankedScores:
        """Groups of these scores (groups, K): by default ranked in order, of weight 1, without margin, of one topic."""
        ones = scores.new_ones(scores.shape)
        ranks = known.get("ranks", ones.cumsum(1).long() - 1)
        default = {
            "margin": ones[:, 0] * 0 if margin is None else margin,
            "weight": ones[:, 0],
            "ranks": ranks,
            "probability": ones[:, 0].masked_fill(ranks[:, 0] == ranks[:, -1], 0.5),
            "present": ones.bool(),
            "topic": ones[:, 0].long() - 1,
        }
        return cls(scores=scores, **default | known)

    @property
    def chosen(self) -> Tensor:
        """Reward of each group's first response, which is a pair's better one, (groups,)."""
        return self.scores[:, 0]

    @property
    def rejected(self) -> Tensor:
        """Reward of each group's last response, which is a pair's worse one, (groups,)."""
        return self.scores[:, -1]

    @property
    def tied(self) -> Tensor:
        """Whether the first and the last response share a place, (groups,) bool."""
        return self.ranks[:, 0] == self.ranks[:, -1]


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities of a batch of pairs, summed over each response, in nats."""

    chosen: Tensor  # (pairs,) under the policy
    rejected: Tensor  # (pairs,)
    ref_chosen: Tensor  # (pairs,) under the reference
    ref_rejected: Tensor  # (pairs,)
    chosen_length: Tensor  # (pairs,) scored tokens
    rejected_length: Tensor  # (pairs,)
    probability: Tensor  # (pairs,) soft label: how likely the chosen response is the better one; 1 is certain
    margin: Tensor  # (pairs,) how much better the chosen response is, in the annotators' unit; 0 where a row has none
    entropies: Tensor | None = None  # (pairs, 2) nats of the policy's next token, mean over chosen and over rejected

    @classmethod
    def of(
        cls,
        chosen: Tensor,
        *others: Any,
        probability: Tensor | None = None,
        margin: Tensor | None = None,
        entropies: Tensor | None = None,
    ) -> PairLogps:
        """The log-probabilities and lengths in the order of the fields; by default certain pairs without a margin.

        A loss that does not declare `reads_entropy` is given None as entropies.
        """
        plain = chosen.detach()
        soft = plain.new_ones(plain.shape) if probability is None else probability
        return cls(*[chosen, *others, soft, plain.new_zeros(plain.shape) if margin is None else margin, entropies])


@dataclass(frozen=True)
class MemberScores:
    """Rewards of B responses by the M members of an ensemble."""

    rewards: Tensor  # (M, B)
    accuracy: Tensor  # (M,) of each member on held-out pairs; equal where it was not measured
    group: Tensor  # (B,) equal for responses to one prompt
    topic_accuracy: Tensor | None = None  # (M, B) of each member on held-out pairs of the response's topic, if measured


@dataclass(frozen=True)
class Verdict:
    """A judge's answer about two responses to a prompt: a probability, or why there is none."""

    probability: float | None = None  # how likely the first is the better one; None unless judged
    status: str = "judged"  # or `abstained`, where the judge cannot tell; or `failed`, where it gave no usable answer
    reason: str = ""


@dataclass(frozen=True)
class SamplerState:
    """What a sampler sees when it draws the next batch from n examples; every array is (n,)."""

    size: int  # examples to draw
    remaining: np.ndarray  # bool: not yet drawn in this epoch
    progress: float  # share of the training done, 0 to 1
    length: np.ndarray  # tokens
    difficulty: np.ndarray  # standardised values of the column; 0 where a row has none
    topic: np.ndarray  # int codes
    loss: np.ndarray  # loss of the example when it was last trained on, NaN before
    rng: np.random.Generator


@dataclass(frozen=True)
class ScoredPairs:
    """Held-out pairs as a reward model scores them; every array is (pairs,) or as written, None if unknown."""

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_length: np.ndarray  # response tokens
    rejected_length: np.ndarray
    chosen_gold: np.ndarray | None = None
    rejected_gold: np.ndarray | None = None
    chosen_rating: np.ndarray | None = None  # mean over the dimensions that people rated
    rejected_rating: np.ndarray | None = None
    chosen_variance: np.ndarray | None = None  # predicted by the reward model
    rejected_variance: np.ndarray | None = None
    chosen_epistemic: np.ndarray | None = None  # population variance of the rewards by the members of an ensemble
    rejected_epistemic: np.ndarray | None = None
    chosen_features: np.ndarray | None = None  # (pairs, width) that the head saw
    rejected_features: np.ndarray | None = None
    prompt: np.ndarray | None = None  # int codes: pairs of one prompt are not independent
    topic: np.ndarray | None = None  # text
    annotator: np.ndarray | None = None  # text: who judged the pair
    probability: np.ndarray | None = None  # of the chosen one, by votes; None: sigmoid(chosen - rejected)
    again: Callable[[Rewrite], ScoredPairs] | None = None  # the same pairs with every response rewritten
