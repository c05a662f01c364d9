"""The contract on one page: the records that flow between packages and the protocols of components.

It knows shapes and names, no arithmetic and no library: torch and datasets appear only as annotations.
A component is a frozen dataclass whose fields are its options. It either acts (`__call__`) or, when it holds weights
or needs something of the run, `build`s what acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from annotated_types import Ge, Lt

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Text = str | list[dict[str, str]]  # plain text, or messages with `role` and `content`
Rewrite = Callable[[str, "np.random.Generator"], str]  # a response, and what is random in changing it
RewardFunction = Callable[["Samples"], Sequence[float]]
GoldReward = Callable[[str, str], Mapping[str, float]]  # (prompt, response) -> dimensions and their `total`


def uses(kind: str, default: str | list[str] | None = None) -> Any:
    """A dataclass field that holds a component of `kind`; a recipe names it, assembly makes the object.

    Args:
        kind: a component kind, such as `pooling`.
        default: its name when a recipe is silent, the names where the field's type is a `tuple`; None: it is required.
    """
    return field(kw_only=True, metadata={"kind": kind, "default": default})


# ---- data ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Comparison:
    """What people said of two responses of a group, by their places in it."""

    better: int
    worse: int
    tied: bool = False  # then neither is better
    margin: float | None = None  # how much better, in the annotators' unit
    weight: float = 1.0  # how much it counts, such as the annotators' agreement


@dataclass(frozen=True)
class Group:
    """A prompt and its K responses: the one record that every data format becomes.

    People may have placed the responses (`ranks[i]` is the place of `responses[i]`, 0 the best, equal ranks tied, None
    where nobody placed it), compared some pairs of them (`compared`, which then says all that is known of pairs), rated
    them (`ratings[dimension][i]`, higher is better, None where missing), or any of these.
    """

    prompt: Text
    responses: tuple[Text, ...]
    ranks: tuple[int | None, ...] | None = None
    margin: float | None = None  # of a ranked pair: how much better the best is, in the annotators' unit
    gold: tuple[float, ...] | None = None  # the true rewards, if known
    weight: float = 1.0  # how much the group's ranks count
    compared: tuple[Comparison, ...] | None = None
    ratings: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    topic: str | None = None  # what accuracy is told apart by
    difficulty: float | None = None  # how hard the group is to judge, for a curriculum; higher is harder

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """`compared`, or every pair that the ranks order or tie."""
        if self.compared is not None or self.ranks is None:
            return self.compared or ()
        placed = [(rank, i) for i, rank in enumerate(self.ranks) if rank is not None]
        both = combinations(sorted(placed), 2)
        return tuple(Comparison(i, j, a == b, self.margin, self.weight) for (a, i), (b, j) in both)


@dataclass(frozen=True)
class PreferenceData:
    """What a `data_format` loads: groups to train and test on, prompts to generate from, and what was left out."""

    train: tuple[Group, ...]
    test: tuple[Group, ...]
    prompts: Mapping[str, tuple[Text, ...]]  # by split: train, test and, where there is one, out_of_distribution
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> rows
    gold: GoldReward | None = None
    out_of_distribution: tuple[Group, ...] = ()  # judged groups unlike those of training


@dataclass(frozen=True)
class Samples:
    """B responses that a policy wrote, as text and as the token ids that it really emitted (EOS included)."""

    prompts: Sequence[Text]
    responses: Sequence[str]
    prompt_ids: Sequence[Sequence[int]]
    response_ids: Sequence[Sequence[int]]


# ---- what losses and estimators see ----------------------------------------------------------------------
@dataclass(frozen=True)
class Prediction:
    """What a reward head says of B responses. Only `reward` is needed; every field may have more leading dimensions."""

    reward: Tensor  # (B,)
    variance: Tensor | None = None  # (B,) of the reward as people would give it: aleatoric uncertainty
    dimensions: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (B,)
    quantiles: Tensor | None = None  # (B, Q) of the reward, at the levels (q + 1/2) / Q
    members: Tensor | None = None  # (B, M) rewards by the members of an ensemble
    features: Tensor | None = None  # (B, width) what the head was given; the model fills it in


@dataclass(frozen=True)
class Compared:
    """P comparisons within a batch of groups, all (P,)."""

    group: Tensor  # row of the batch
    better: Tensor  # place in the group
    worse: Tensor
    tied: Tensor  # bool
    margin: Tensor  # 0 where a comparison has none
    weight: Tensor


@dataclass(frozen=True)
class RankedScores:
    """What a model predicts and what people said of a batch of groups with up to K responses each.

    A pair has its chosen response first. What is left out of the call is filled in: ranks in order, weights of 1, one
    topic for all.
    """

    scores: Tensor  # (groups, K) rewards
    margin: Tensor  # (groups,), 0 where a row has none
    weight: Tensor = field(default=None, kw_only=True)  # type: ignore[assignment]  # (groups,)
    ranks: Tensor = field(default=None, kw_only=True)  # type: ignore[assignment]  # (groups, K) 0 best, -1 not placed
    present: Tensor = field(default=None, kw_only=True)  # type: ignore[assignment]  # (groups, K) False is no response
    topic: Tensor = field(default=None, kw_only=True)  # type: ignore[assignment]  # (groups,) int codes from 0
    ratings: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)  # dimension -> (groups, K), NaN missing
    compared: Compared | None = field(default=None, kw_only=True)  # None: what the ranks say
    prediction: Prediction | None = field(default=None, kw_only=True)  # all that the head said, (groups, K, ...)

    def __post_init__(self) -> None:
        ones = self.scores.new_ones(self.scores.shape)
        filled = {"weight": ones[:, 0], "ranks": ones.cumsum(1).long() - 1, "present": ones.bool()}
        filled["topic"] = ones[:, 0].long() - 1
        for name, value in filled.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

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


@dataclass(frozen=True)
class MemberScores:
    """Rewards of B responses by the M members of an ensemble."""

    rewards: Tensor  # (M, B)
    accuracy: Tensor  # (M,) of each member on held-out pairs; equal where nobody measured it
    group: Tensor  # (B,) equal for responses to one prompt


@dataclass(frozen=True)
class Draw:
    """What a sampler may know when it draws the next batch from n examples; every array is (n,)."""

    size: int  # examples to draw
    remaining: np.ndarray  # bool: not yet drawn in this epoch
    progress: float  # share of the training done, 0 to 1
    length: np.ndarray  # tokens
    difficulty: np.ndarray  # as the data tells it, standardised; 0 where it tells nothing
    topic: np.ndarray  # int codes
    loss: np.ndarray  # when last trained on, NaN before
    rng: np.random.Generator


@dataclass(frozen=True)
class ScoredPairs:
    """Held-out pairs as a reward model scores them; every array is (pairs,), None where nobody knows."""

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_length: np.ndarray  # response tokens
    rejected_length: np.ndarray
    chosen_gold: np.ndarray | None = None
    rejected_gold: np.ndarray | None = None
    chosen_rating: np.ndarray | None = None  # mean over the dimensions that people rated
    rejected_rating: np.ndarray | None = None
    chosen_variance: np.ndarray | None = None  # as the reward model predicts it
    rejected_variance: np.ndarray | None = None
    chosen_epistemic: np.ndarray | None = None  # population variance of the rewards by the members of an ensemble
    rejected_epistemic: np.ndarray | None = None
    prompt: np.ndarray | None = None  # int codes: pairs of one prompt are not independent
    topic: np.ndarray | None = None  # text
    again: Callable[[Rewrite], ScoredPairs] | None = None  # the same pairs with every response rewritten


# ---- components ------------------------------------------------------------------------------------------
class Pooling(Protocol):
    """Turns the hidden states of a sequence into one feature vector; with `build(width)` where it has weights.

    The mask is of the whole sequence; of the response if `over` is "response"; of the last token if `reads_last`.
    """

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, length, width) and bool (batch, length) -> (batch, width)."""
        ...


class RewardHead(Protocol):
    """Builds the module that turns features into rewards."""

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to (batch,) rewards, or to a `Prediction` where there is more to say."""
        ...


class RewardLoss(Protocol):
    """Loss of a reward model, one number a group; with `build()` instead where it has weights of its own.

    It is given pairs, chosen first, and a group's loss is the mean over its pairs, unless it says otherwise in a class
    variable: `whole_groups = True` to be given groups of up to K responses as they are, `takes_ties = True` to be given
    tied pairs too, `reads_ranks = True` to be given only groups in which two responses or more were placed,
    `reads_ratings = True` to be given only groups in which one was rated, `uses_batch_mates = True` where an example's
    loss depends on the others in its batch. A loss made of others names them in `parts`, and is given what any part is.
    For the conformance kit it may say `holds_constant = True` where a part of it has no gradient on purpose, and
    `under_shift = "same"` (or `under_scale`) where a number added to (or times) all rewards changes nothing.
    """

    def __call__(self, scores: RankedScores) -> Tensor:
        """-> (groups,)."""
        ...


class Sampler(Protocol):
    """The order in which a reward model sees its examples."""

    def __call__(self, draw: Draw) -> np.ndarray:
        """-> (draw.size,) indices of the next batch; repeats, and examples that are not remaining, are allowed."""
        ...


class Aggregation(Protocol):
    """Makes one reward of the rewards of an ensemble's members.

    One that compares a prompt's responses has `compares_siblings = True`: a head, which sees each alone, refuses it.
    `under_shift` and `under_scale` are "follows" where what happens to all rewards happens to its answer.
    """

    def __call__(self, members: MemberScores) -> Tensor:
        """-> (B,)."""
        ...


class PreferenceLoss(Protocol):
    """Loss of a policy on preference pairs, one number a pair.

    `uses_batch_mates` and `holds_constant` are as of a reward loss.
    """

    def __call__(self, logps: PairLogps) -> Tensor:
        """-> (pairs,)."""
        ...


class Reward(Protocol):
    """Names what scores a rollout; `build` binds it to the run."""

    def build(self, run: Run) -> RewardFunction:
        """A function from B samples to B rewards; for online training, it may give each a row of one a token."""
        ...


class DataFormat(Protocol):
    """Reads preferences from somewhere."""

    def load(self, base: Base, seed: int) -> PreferenceData:
        """Raises DataError when the source cannot be read."""
        ...


class Metric(Protocol):
    """A measure of a reward model on held-out pairs; `reads_clock = True` where it times something."""

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> named numbers; a name is the metric's own or begins with it."""
        ...


class Stage(Protocol):
    """One block of a recipe's `stages`.

    A method `fits(adapter)`, where there is one, raises ValueError if the recipe's adapter does not go with it.
    """

    kind: ClassVar[str]

    @property
    def name(self) -> str:
        """What the run's folder, table and later stages call it."""
        ...

    def run(self, run: Run) -> StageResult:
        """Trains or measures, leaves its artefacts in `run.folder`, and says what it made."""
        ...


# ---- a run -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Adapter:
    """LoRA options (Hu et al. 2021), under PEFT's names."""

    r: Annotated[int, Ge(1)] = 16
    lora_alpha: Annotated[int, Ge(1)] = 32
    lora_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    target_modules: str | list[str] = "all-linear"


@dataclass(frozen=True)
class Base:
    """The model that every stage starts from."""

    path: str  # a folder or a hub name
    quantization: str | None = None  # nf4 or int8
    adapter: Adapter | None = None  # None fine-tunes all weights
    trust_remote_code: bool = False


@dataclass(frozen=True)
class StageResult:
    """What a finished stage made; saved as JSON in its folder, so that a later process can go on from it."""

    name: str
    kind: str
    base: Path | None = None  # a whole model that later stages start from
    policy: Path | None = None  # a trained policy: adapter or whole model
    reward_model: Path | None = None
    seconds: float = 0.0
    peak_bytes: int | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a stage is given: the base to start from, the data, its own folder and what earlier stages made."""

    base: Base
    data: PreferenceData
    seed: int
    folder: Path
    finished: tuple[StageResult, ...]
    spec: Callable[[object], dict[str, Any]]  # component -> {"use": name, **options}, the recipe's own words
    component: Callable[[str, Mapping[str, Any]], Any]  # (kind, spec) -> component, the inverse
    log: Callable[[int, Mapping[str, float]], None] = field(default=lambda step, values: None)  # numbers of a step
    backbone: Any = None  # a loaded base that a reward may stand on, a `models.backbone.Backbone`
