"""A run as its stages and guests see it: what they can open, train and remember, and what they hand on.

It knows shapes and names, no library: torch and transformers appear only as annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

from annotated_types import Ge, Lt

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rlhf_plugins.contract.records import Prediction
    from rlhf_plugins.contract.rows import Data, Samples, Text

Spec = Mapping[str, Any]  # {"use": name, **options}: a component in a recipe's words
Json = Any  # what `json.loads` returns


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
    adapter: Adapter | None = None  # None trains all weights
    trust_remote_code: bool = False


# ---- what a stage hands on -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cost:
    """What a stage, or a part of it, used. Costs add up; `peak_bytes` is the larger one."""

    seconds: float = 0.0
    flops: float = 0.0  # of the engine's forward and backward passes
    trained_tokens: int = 0
    generated_tokens: int = 0
    reward_calls: int = 0  # responses scored
    peak_bytes: int | None = None

    def __add__(self, other: Cost) -> Cost:
        peaks = [peak for peak in (self.peak_bytes, other.peak_bytes) if peak is not None]
        return Cost(
            self.seconds + other.seconds,
            self.flops + other.flops,
            self.trained_tokens + other.trained_tokens,
            self.generated_tokens + other.generated_tokens,
            self.reward_calls + other.reward_calls,
            max(peaks, default=None),
        )


@dataclass(frozen=True)
class Curve:
    """Numbers of a training by step."""

    points: Sequence[tuple[int, float]]
    unit: str = ""
    better: Literal["higher", "lower"] | None = None


@dataclass(frozen=True)
class Section:
    """A part of the report that a stage writes: a heading, text, and a table where there are rows."""

    title: str
    text: str = ""
    rows: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Evaluation:
    """Policies judged on the same prompts; `scores[name][i]` is the score of that policy's response to prompt i."""

    judge: str
    reference: str  # the name in `scores` that the others are compared with
    prompts: Sequence[Text]
    scores: Mapping[str, Sequence[float]]


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
    data: Data
    seed: int
    folder: Path
    finished: tuple[StageResult, ...]
    spec: Callable[[object], dict[str, Any]]  # component -> {"use": name, **options}, the recipe's own words
    component: Callable[[str, Mapping[str, Any]], Any]  # (kind, spec) -> component, the inverse
    log: Callable[[int, Mapping[str, float]], None] = field(default=lambda step, values: None)  # numbers of a step
    backbone: Any = None  # a loaded base that a reward may stand on, a `models.backbone.Backbone`


# ---- handles ---------------------------------------------------------------------------------------------
@runtime_checkable
class Policy(Protocol):
    """A causal language model that answers prompts. What it returns has no gradient unless it is asked for."""

    @property
    def module(self) -> nn.Module:
        """The model, with this policy's adapter active inside `with policy:` only."""
        ...

    def __enter__(self) -> Policy: ...

    def __exit__(self, *error: object) -> None: ...

    def sample(
        self,
        prompts: Sequence[Text],
        n: int = 1,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 64,
        seed: int = 0,
    ) -> Samples:
        """`n` responses to each prompt, those of one prompt side by side; temperature 0 decodes greedily."""
        ...

    def encode(self, prompts: Sequence[Text], responses: Sequence[Text]) -> Samples:
        """Given responses as tokens, one to each prompt."""
        ...

    def log_probs(self, samples: Samples, *, grad: bool = False) -> Tensor:
        """Of each response token given what precedes it, in nats, (B, T), 0 outside the response."""
        ...

    def choose(self, prompts: Sequence[Text], choices: Sequence[str]) -> Tensor:
        """Log-probabilities of short answers, normalised over them, (B, C): a judge in one forward pass."""
        ...

    def next_logits(self, ids: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """Logits (B, vocabulary) after the tokens (B, N), and a cache to go on from with the next ones."""
        ...


@runtime_checkable
class RewardModel(Protocol):
    """What scores responses."""

    @property
    def module(self) -> nn.Module | None:
        """The model; None where there is none, as for a function."""
        ...

    def predict(self, samples: Samples) -> Prediction:
        """(B,) rewards, with what else the model predicts."""
        ...


@dataclass(frozen=True)
class Step:
    """A step of a training as monitors see it: the whole rollout or batch, not an excerpt."""

    stage: str
    step: int
    total: int | None
    values: Mapping[str, float]
    samples: Samples | None = None
    prediction: Prediction | None = None
    cost: Cost = Cost()


@dataclass(frozen=True)
class Alarm:
    """What a monitor found. An action `scale_lr` or `scale_kl` multiplies by `factor`, `stop` ends the stage."""

    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    false_alarm_rate: float | None = None
    action: Literal["stop", "scale_lr", "scale_kl"] | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Budget:
    """What a stage may use; at the first limit that is reached it ends, its work kept."""

    flops: Annotated[float, Ge(0)] | None = None
    seconds: Annotated[float, Ge(0)] | None = None
