"""The interface of a run: what a stage can open, train and save through it, and the records that it returns.

torch and transformers are not imported here: they appear in annotations alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Ge, Lt

if TYPE_CHECKING:
    from rlhf_plugins.contract.handles import Policy, RewardModel
    from rlhf_plugins.contract.records import Prediction
    from rlhf_plugins.contract.rows import Data, Samples, Text
    from rlhf_plugins.contract.run_kinds import Monitor

Spec = Mapping[str, Any]  # {"use": name, **options}: a component in a recipe's words
MARK = "run:"  # begins a path in a saved spec that is relative to the folder of its run
UNTRIED = "was not tried on a quantized base: leave it out, or the quantization"  # DoRA
Json = Any  # what `json.loads` returns

SHARED = "which policies here share: name layers in `target_modules`, embeddings too, or write `adapter: none`"


@dataclass(frozen=True)
class Adapter:
    """LoRA options (Hu et al. 2021), under PEFT's names."""

    renamed: ClassVar[Mapping[str, str]] = {  # PEFT's options that are refused, each with the reason
        "modules_to_save": f"is refused: it trains whole modules of the base, {SHARED}",
        "trainable_token_indices": f"is refused: it trains rows of the embeddings, {SHARED}",
        "bias": f"is refused: it trains biases of the base, {SHARED}",
    }

    r: Annotated[int, Ge(1)] = 16
    lora_alpha: Annotated[int, Ge(1)] = 32
    lora_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    target_modules: str | list[str] = "all-linear"
    exclude_modules: str | list[str] | None = None  # not these: layer names, or a pattern of whole names
    use_rslora: bool = False  # scales by lora_alpha / sqrt(r), not lora_alpha / r (Kalajdzievski 2023)
    use_dora: bool = False  # learns the length of each output's weights apart from their direction (Liu et al. 2024)
    init_lora_weights: bool | str = True  # how A starts; B is 0. `gaussian`: N(0, 1 / r^2)

    def __post_init__(self) -> None:
        """Raises ValueError where it would start from another model, or change weights that adapters share."""
        if self.init_lora_weights not in (True, "gaussian"):
            raise ValueError(
                f"init_lora_weights: {self.init_lora_weights} changes the base's weights, starts from another model or "
                "reads rows first, and adapters here start as the base that they share: write gaussian, or leave it out"
            )


@dataclass(frozen=True)
class Chat:
    """How conversations are rendered, in all stages and wherever a model that they saved is opened later."""

    template: str | None = None  # Jinja; None is the tokenizer's own
    system: str | None = None  # system turn that conversations without one are given
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # variables that the template is given


@dataclass(frozen=True)
class Lengths:
    """How long rows may be in tokens, in all stages, and what happens to longer ones."""

    max_length: int | None = None  # prompt and response together; never more than the model's positions
    max_prompt_length: int | None = None
    truncation: Literal["drop", "cut"] = "drop"  # cut: a prompt loses its first tokens, a response its last ones


@dataclass(frozen=True)
class Base:
    """The model that a recipe starts from. Its own weights are trained, or an adapter on it."""

    path: str  # a folder or a hub name
    quantization: str | None = None  # nf4 or int8
    adapter: Adapter | None = None  # None trains all weights
    trust_remote_code: bool = False
    chat: Chat | None = None  # None renders as the tokenizer does
    lengths: Lengths = Lengths()  # limits of this run's rows; not saved with a model

    def __post_init__(self) -> None:
        """Raises ValueError for DoRA on a quantized base."""
        if self.quantization is not None and self.adapter is not None and self.adapter.use_dora:
            raise ValueError(f"adapter.use_dora: {UNTRIED}")


@dataclass(frozen=True)
class Weights:
    """Where the weights of a policy are: a whole model, or an adapter saved on one."""

    name: str  # `base`, or the name of the policy
    base: Base  # the whole model
    folder: Path | None = None  # where the adapter is saved; None: the policy is the whole model


@dataclass(frozen=True)
class Cost:
    """What a stage, or a part of it, used. A sum adds all numbers but `peak_bytes`, of which it takes the larger."""

    seconds: float = 0.0
    flops: float = 0.0  # floating-point operations of the engine's forward and backward passes
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
    """Policies judged on the same prompts; `scores[name][i]` is the mean of that policy's responses to prompt i."""

    judge: str
    reference: str  # the name in `scores` that the others are compared with
    prompts: Sequence[Text]
    scores: Mapping[str, Sequence[float]]
    lengths: Mapping[str, Sequence[float]] = field(default_factory=dict)  # mean words of the responses, where known

    def __post_init__(self) -> None:
        """Raises RunError where the reference has no scores, or a policy not one score or length per prompt."""
        from rlhf_plugins.errors import RunError, nearest

        if self.reference not in self.scores:
            raise RunError(f"evaluation: no scores of the reference {nearest(self.reference, self.scores)}")
        for what, each in {"scores": self.scores, "lengths": self.lengths}.items():
            for name, numbers in each.items():
                if len(numbers) != len(self.prompts):
                    raise RunError(f"evaluation: {len(numbers)} {what} of {name} for {len(self.prompts)} prompts")


@dataclass(frozen=True)
class ReportParts:
    """What a stage measured for the report, under the report's own names and in the shapes of `report.schema`."""

    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # PolicyReport; scores alone make one too
    ceiling: Mapping[str, Any] | None = None  # Ceiling
    judge: Mapping[str, Any] | None = None  # JudgeReport: what scored the policies
    reward_model: Mapping[str, Any] | None = None  # RewardModelReport of the judge
    reward_models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # RewardModelReport by name
    samples: Sequence[Mapping[str, Any]] = ()  # Sample: a prompt with every policy's response
    rollouts: Sequence[Mapping[str, Any]] = ()  # RolloutReport: responses during training
    left_out: Mapping[str, int] = field(default_factory=dict)  # reason -> rows that were not used, or were cut
    own_data: Mapping[str, int] = field(default_factory=dict)  # train, test: its rows, where the stage has its own
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class StageResult:
    """What a finished stage made; saved as JSON in its folder, so that a later process can go on from it.

    `policies` and `rewards` are specs, of kind `generator` and `reward`: a folder is one way to open them, a mixture or
    a server another. Paths in a spec inside the run's folder are saved relative to it.
    """

    policies: Mapping[str, Spec] = field(default_factory=dict)
    rewards: Mapping[str, Spec] = field(default_factory=dict)
    base: Path | None = None  # a whole model that later stages start from
    data: Data | None = None  # rows for later stages: `data: {format: stage, stage: NAME}`; a gold reward is not kept
    evaluation: Evaluation | None = None
    sections: Sequence[Section] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)  # numbers, text, lists, mappings; the report shows them
    report: ReportParts = ReportParts()
    cost: Cost = Cost()
    name: str = ""  # the runner fills in this and what follows
    stage: str = ""  # the registered name of the stage
    opened: Sequence[str] = ()  # lineage: what it opened of earlier stages, such as `dpo.policies.dpo`
    start: str = ""  # the name of the policy that it started from, where it has the option `from`
    reference: str = ""  # the name of the policy to which its KL is measured, where it has the option `reference`


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
    responses: Mapping[str, Sequence[float]] = field(default_factory=dict)  # numbers of each response, by name

    def shown(self, places: Iterable[int], most: int = 16) -> list[dict[str, Any]]:
        """The responses at these places with their numbers, as the evidence of an alarm holds them."""
        if (samples := self.samples) is None:
            return []
        return [
            {"prompt": samples.prompts[i], "response": samples.responses[i]}
            | {name: float(values[i]) for name, values in self.responses.items()}
            for i in list(places)[:most]
        ]


@dataclass(frozen=True)
class Alarm:
    """What a monitor found. `stop` fails the stage, `end` ends its training, `scale_*` multiply the rate or the KL."""

    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    false_alarm_rate: float | None = None
    action: Literal["stop", "end", "scale_lr", "scale_kl"] | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Budget:
    """What a stage may use. It ends at the first limit that it reaches, and keeps its work."""

    flops: Annotated[float, Ge(0)] | None = None
    seconds: Annotated[float, Ge(0)] | None = None


class Run(Protocol):
    """What a stage is given. `session` gives the same to a script."""

    @property
    def base(self) -> Base:
        """The whole model that this stage starts from; where it starts from an adapter, the model below the adapter."""
        ...

    @property
    def data(self) -> Data:
        """The rows of the recipe, or of this stage's own `data`."""
        ...

    @property
    def seed(self) -> int:
        """The seed of everything random in the run."""
        ...

    @property
    def folder(self) -> Path:
        """The folder of this stage."""
        ...

    @property
    def carry(self) -> frozenset[str]:
        """The state that this stage takes over from the training of the policy that it starts from; see `train`."""
        ...

    @property
    def finished(self) -> tuple[StageResult, ...]:
        """The results of earlier stages in order, then those of this stage's own calls of `train`."""
        ...

    @property
    def backbone(self) -> Any:
        """A loaded base, an `engine.backbone.Backbone`, that models opened by this run share; None: each loads one."""
        ...

    def sharing(self, backbone: Any) -> Run:
        """The same run, but the models that it opens share this loaded base."""
        ...

    def policy(self, name: str | None = None) -> Policy:
        """An earlier policy, by its own name or that of its stage; None: the policy that this stage starts from.

        Raises:
            RunError: there is none of that name; the known names and the nearest are in the message.
        """
        ...

    def reference(self) -> Policy:
        """The policy that this stage's KL is measured to: its option `reference`, else where it starts."""
        ...

    def weights(self, name: str) -> Weights:
        """Where the weights of `start`, `reference`, `base` (the run's own) or an earlier policy are.

        Raises:
            RunError: as `policy` does, and where the policy is no saved model, such as a mixture.
        """
        ...

    def reward(self, name: str | None = None) -> RewardModel:
        """An earlier stage's reward model; None: the latest. Raises RunError as `policy` does."""
        ...

    def open(self, kind: str, spec: str | Spec) -> Any:
        """Makes the component that a spec describes, and builds it for this run where its `build` takes only a run."""
        ...

    def spec(self, component: object) -> dict[str, Any]:
        """The spec of a component, as a recipe writes it: the inverse of `open`."""
        ...

    def train(
        self,
        stage: Any,
        *,
        name: str,
        data: Data | None = None,
        start: str | None = None,
        carry: Collection[str] = frozenset(),
        until: Callable[[Step], bool] | None = None,
        budget: Budget | None = None,
    ) -> StageResult:
        """Runs another stage inside this one, in the folder `<this stage>/<name>`.

        A finished call with the same spec and inputs returns from disk. Hooks see the stage as `outer/name`.

        Args:
            stage: a stage, or a spec of one.
            name: the name of this part, unique within this stage.
            data: rows instead of the run's, for a stage without `data` of its own.
            start: the name of the policy to start from; None is this stage's own start.
            carry: the state that it takes over from the training of `start`: `optimizer` (which a stage with
                `keep_optimizer` keeps), `value` (the critic), `kl` (the coefficient, and what adapts it).
            until: called with each logged step and the cost so far; the training ends once it is true.
            budget: what this part may use.

        Raises:
            RunError: an argument is wrong, another call was made under this name, or there is nothing to carry.
        """
        ...

    def fit(self, trainer: Any, monitors: Sequence[Monitor] = ()) -> Mapping[str, Curve]:
        """Trains a plugin's own transformers Trainer with the run's progress bar, hooks and checks of the loss.

        Args:
            trainer: ready to train.
            monitors: they watch its optimizer steps; their alarms are written to `alarms.jsonl` in the stage's folder.

        Raises:
            RunError: it is no Trainer, the loss or the norm of a gradient is not finite, or a monitor stops it.
        """
        ...

    def go_on(self, trainer: Any, last: bool = True) -> None:
        """Trains a transformers Trainer; a run that was killed goes on from its newest checkpoint, bit for bit.

        It ends early where the stage has to. A checkpoint also holds the state of the trainer's callbacks that have
        `state_dict` and `load_state_dict`, and of the objects that its method `stateful() -> {name: object}` returns.

        Args:
            trainer: built in the same way as before the run was killed.
            last: whether the stage trains no further model, so that the end of this training need not be kept.

        Raises:
            RunError: the checkpoint is of another model or training.
        """
        ...

    def once(self, name: str, make: Callable[[], Json]) -> Json:
        """What `make` returns, made at most once: written atomically, and read back after a kill.

        The name is the only key within this stage: letters, digits, `-`, `_` and `.`.

        Raises:
            RunError: the name holds another character, or the value is not JSON.
        """
        ...

    def stopped(self) -> bool:
        """Whether the stage should end: the user asked for it, or its budget is used up. For a plugin's own loop."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Reports numbers of a step. Raises StopRun where a hook wants the run to end."""
        ...

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Reports responses with their numbers. Raises StopRun as `log` does."""
        ...
