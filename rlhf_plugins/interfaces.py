"""The contract on one page: the records that flow between packages and the protocols of components.

It knows shapes and names, no arithmetic and no library: torch and datasets appear only as annotations.
A component is a frozen dataclass whose fields are its options. It either acts (`__call__`) or, when it holds weights
or needs something of the run, `build`s what acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from annotated_types import Ge, Lt

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Text = str | list[dict[str, str]]  # plain text, or messages with `role` and `content`
GoldReward = Callable[[str, str], Mapping[str, float]]  # (prompt, response) -> dimensions and their `total`


def uses(kind: str, default: str | list[str] | None = None) -> Any:
    """A dataclass field that holds a component of `kind`; a recipe names it, assembly makes the object.

    Args:
        kind: a component kind, such as `pooling`.
        default: the component's name when a recipe is silent, or the names where the field's type is a `tuple`;
            None makes the field required.
    """
    return field(kw_only=True, metadata={"kind": kind, "default": default})


# ---- data ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Group:
    """A prompt and its K responses: the one record that every data format becomes.

    `ranks[i]` is the place of `responses[i]`, 0 the best, equal ranks tied; None when nobody compared them.
    `margin` is how much better the best of a pair is, in the annotators' unit; `gold[i]` the true reward, if known.
    """

    prompt: Text
    responses: tuple[Text, ...]
    ranks: tuple[int, ...] | None = None
    margin: float | None = None
    gold: tuple[float, ...] | None = None


@dataclass(frozen=True)
class PreferenceData:
    """What a `data_format` loads: groups to train and test on, prompts to generate from, and what was left out."""

    train: tuple[Group, ...]
    test: tuple[Group, ...]
    prompts: Mapping[str, tuple[Text, ...]]  # by split: train, test and, where there is one, out_of_distribution
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> rows
    gold: GoldReward | None = None


@dataclass(frozen=True)
class Samples:
    """B responses that a policy wrote, as text and as the token ids that it really emitted (EOS included)."""

    prompts: Sequence[Text]
    responses: Sequence[str]
    prompt_ids: Sequence[Sequence[int]]
    response_ids: Sequence[Sequence[int]]


# ---- what losses and estimators see ----------------------------------------------------------------------
@dataclass(frozen=True)
class RankedScores:
    """Rewards of a batch of groups, best response first."""

    scores: Tensor  # (groups, K)
    margin: Tensor  # (groups,), 0 where a row has none

    @property
    def chosen(self) -> Tensor:
        """Reward of each group's best response, (groups,)."""
        return self.scores[:, 0]

    @property
    def rejected(self) -> Tensor:
        """Reward of each group's worst response, (groups,)."""
        return self.scores[:, -1]


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
class Rollout:
    """B sampled responses of up to T tokens with what an advantage estimator may read."""

    scores: Tensor  # (B,) reward of the whole response
    rewards: Tensor  # (B, T) per token: KL penalty, and the score at the last token
    values: Tensor | None  # (B, T) value of the state before each token; None where no critic is trained
    mask: Tensor  # (B, T) True at response tokens
    group: Tensor  # (B,) equal for rollouts of one prompt


@dataclass(frozen=True)
class Advantages:
    """What an estimator makes of a rollout; both (B, T) and 0 outside the mask."""

    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True)
class ScoredPairs:
    """Held-out pairs as a reward model scores them; every array is (pairs,), gold is None where it is unknown."""

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_length: np.ndarray  # response tokens
    rejected_length: np.ndarray
    chosen_gold: np.ndarray | None = None
    rejected_gold: np.ndarray | None = None


# ---- components ------------------------------------------------------------------------------------------
class Pooling(Protocol):
    """Turns the hidden states of a sequence into one feature vector."""

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, length, width) and bool (batch, length) -> (batch, width)."""
        ...


class RewardHead(Protocol):
    """Builds the module that turns features into rewards."""

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to (batch,)."""
        ...


class RewardLoss(Protocol):
    """Loss of a reward model, one number a group."""

    def __call__(self, scores: RankedScores) -> Tensor:
        """-> (groups,)."""
        ...


class PreferenceLoss(Protocol):
    """Loss of a policy on preference pairs, one number a pair."""

    def __call__(self, logps: PairLogps) -> Tensor:
        """-> (pairs,)."""
        ...


class Advantage(Protocol):
    """Estimates how much better each token was than expected."""

    needs_values: ClassVar[bool]

    def __call__(self, rollout: Rollout) -> Advantages:
        """Pure arithmetic on one rollout."""
        ...


RewardFunction = Callable[[Samples], Sequence[float]]


class Reward(Protocol):
    """Names what scores a rollout; `build` binds it to the run."""

    def build(self, run: Run) -> RewardFunction:
        """A function from B samples to B rewards."""
        ...


class DataFormat(Protocol):
    """Reads preferences from somewhere."""

    def load(self, base: Base, seed: int) -> PreferenceData:
        """Raises DataError when the source cannot be read."""
        ...


class Metric(Protocol):
    """A measure of a reward model on held-out pairs."""

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        """-> named numbers; a name is the metric's own or begins with it."""
        ...


class Stage(Protocol):
    """One block of a recipe's `stages`."""

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
