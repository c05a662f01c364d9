"""The options that all stages that train have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from rlhf_plugins.contract.component import Earlier, uses
from rlhf_plugins.contract.run import Adapter, Budget, Run
from rlhf_plugins.contract.run_kinds import DataFormat, Monitor, Regularizer, Stage, Task
from rlhf_plugins.contract.workload import Kept, Work, Workload
from rlhf_plugins.errors import RlhfError

Row = TypeVar("Row")
Made = TypeVar("Made")

TokensPerBatch = Annotated[
    Annotated[int, Field(ge=1)] | None,
    Field(description="tokens in memory at once; larger batches are cut into micro-batches of equal effect"),
]

CacheTokens = Annotated[
    Annotated[int, Field(ge=1)] | None,
    Field(description="tokens of a generation whose keys and values are held at once; `none`: 16384 on a GPU"),
]

From = Annotated[
    Annotated[str, Field(description="`base`, `previous` (the last stage that made a policy), or an earlier policy")],
    Earlier("policy", ("base", "previous")),
]
Reference = Annotated[
    Annotated[str, Field(description="of the KL: `base`, `start` (what it starts from), or an earlier policy")],
    Earlier("policy", ("base", "start")),
]

FEW = 64  # held-out rows that a rehearsal tries first
MANY = 1_000  # training rows that a rehearsal reads, in less than a second
WITHOUT_LIMIT = 4096  # tokens of a sequence that nothing limits, for a forecast
HEAD = "lm_head"
NOT_LEARNED = (
    "TRL computes log-probabilities from the weights of that layer, so that no adapter on it learns: leave it out"
)
NEEDS = "needs `trainer: {eval_strategy: steps}`, which evaluates"


def longest(run: Run) -> dict[str, Any]:
    """The recipe's `max_length` in the place of TRL's default, where it gives one."""
    most = run.base.lengths.max_length
    return {} if most is None else {"max_length": most}


def tried(rows: Sequence[Row], make: Callable[[Sequence[Row]], Made]) -> Made:
    """`make` of the first rows; of all, where it refuses those.

    Raises:
        RlhfError: `make` raises it of all rows.
    """
    try:
        return make(rows[:FEW])
    except RlhfError:
        if len(rows) <= FEW:
            raise
        return make(rows)


def kept(rows: Sequence[Row], unit: str, take: Callable[[Sequence[Row]], tuple[int, Mapping[str, int]]]) -> Kept:
    """What a stage takes of the first `MANY` rows; of all, where it refuses those.

    Args:
        rows: to train on.
        unit: a word for what is taken.
        take: how much of rows is taken, and how many are left out, by reason.

    Raises:
        RlhfError: `take` raises it of all rows.
    """
    some = rows[:MANY]
    try:
        taken, left_out = take(some)
    except RlhfError:
        if len(rows) <= MANY:
            raise
        some, (taken, left_out) = rows, take(rows)
    return Kept(taken, len(some), left_out, unit, len(rows))


@dataclass(frozen=True)
class Training(Stage, makes_rollouts=False):
    """A stage that trains; on rows, unless it gives the trait itself."""

    monitors: tuple[Monitor, ...] = uses("monitor", [])
    regularizers: tuple[Regularizer, ...] = uses("regularizer", [])
    budget: Annotated[Budget | None, Field(description="the training ends at the first step that reaches it")] = None
    max_grad_value: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(description="limit of each component of the gradient, after `trainer.max_grad_norm`; `none` is no limit"),
    ] = None
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    early_stopping_patience: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="evaluations without a better `metric_for_best_model`, after which the training ends"),
    ] = None
    early_stopping_threshold: Annotated[float, Field(ge=0, description="how much better it has to be")] = 0.0

    def fits(self, adapter: Adapter | None) -> None:
        """Raises ValueError for an early end where the trainer evaluates nothing."""
        asked = self.early_stopping_patience is not None
        if asked and (self.trainer or {}).get("eval_strategy", "no") == "no":
            raise ValueError(f"early_stopping_patience: {NEEDS}")

    def setting(self, name: str) -> Any:
        """An option of the `trainer` block, by default that of its configuration class."""
        given = self.trainer or {}
        if name in given:
            return given[name]
        return _default(next(f.metadata["config"] for f in fields(self) if f.name == "trainer"), name)

    def limit(self, longest: int | None) -> int | None:
        """Tokens of a sequence, at most; `longest` is the recipe's `max_length`."""
        given: int | None = (self.trainer or {}).get("max_length", longest)
        return given or self.setting("max_length")

    def learning(self, works: Sequence[Work], **more: Any) -> Workload:
        """A workload with the options that all trainings have in common."""
        given = self.trainer or {}
        recomputes = given.get("gradient_checkpointing", True)
        return Workload(works, str(self.setting("optim")), bool(recomputes), _precision(given), **more)


@dataclass(frozen=True)
class PolicyTraining(Training, carries={"optimizer"}):
    """A stage that trains a policy, whose optimizer a later one may go on with."""

    optimizer: Annotated[
        Literal["new", "start"],
        Field(description="`start` goes on with the optimizer's state that the stage of its start kept"),
    ] = "new"
    keep_optimizer: Annotated[
        bool, Field(description="keep the optimizer's state for a later stage with `optimizer: start`")
    ] = False
    tasks: tuple[Task, ...] = uses("task", [])  # measured at `eval_strategy`

    def fits(self, adapter: Adapter | None) -> None:
        """Raises ValueError for tasks that nothing measures, have one name, or of which less is best; and `on_head`."""
        super().fits(adapter)
        if adapter is not None and on_head(adapter):
            raise ValueError(f"adapter.target_modules: {HEAD}: {NOT_LEARNED}")
        distinct(self.tasks)
        given = self.trainer or {}
        if self.tasks and given.get("eval_strategy", "no") == "no":
            raise ValueError(f"tasks: {NEEDS}")
        best = str(given.get("metric_for_best_model")).removeprefix("eval_")
        for task in self.tasks:
            if task.name in self.own_numbers(True):
                raise ValueError(f"tasks: {task.name!r} is a number of the stage's own: give the task another `name:`")
            if task.name == best and task.better == "lower" and given.get("greater_is_better") is not False:
                raise ValueError(f"trainer: of {task.name!r} less is better: write `greater_is_better: false`")

    def own_numbers(self, gold: bool) -> frozenset[str]:
        """What it measures on held-out rows beside its tasks; see `held_out_numbers`."""
        raise NotImplementedError

    def held_out_numbers(self, gold: bool) -> frozenset[str]:
        """See `Stage`."""
        return self.own_numbers(gold) | {task.name for task in self.tasks}


def _precision(trainer: Mapping[str, Any]) -> Literal["fp16", "bf16", "fp32"] | None:
    """The precision that a `trainer` block asks for; None where it leaves it to the machine."""
    if trainer.get("fp16"):
        return "fp16"
    asked = trainer.get("bf16")
    if asked is None:
        return None
    return "bf16" if asked else "fp32"


def on_head(adapter: Adapter) -> bool:
    """Whether an adapter names the output layer; a pattern may match it too, which the trainer refuses."""
    names = adapter.target_modules
    return not isinstance(names, str) and any(name.rpartition(".")[2] == HEAD for name in names)


def distinct(tasks: Sequence[Task]) -> None:
    """Raises ValueError where two tasks have one name."""
    names = [task.name for task in tasks]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ValueError(f"tasks: two are called {twice!r}: give one of them a `name:`")


def sampling(tasks: Sequence[Task], cache_tokens: int | None = None) -> list[Work]:
    """The generation of answers to tasks."""
    from rlhf_plugins.engine.decoding import AT_ONCE
    from rlhf_plugins.engine.token_budget import CACHE_TOKENS

    most = cache_tokens or CACHE_TOKENS
    sizes = (task.sampled() for task in tasks)
    return [Work("generation", "sample", min(rows, AT_ONCE), 1, None, new, most) for rows, new in sizes if rows]


def pair_tokens(longest: int | None) -> tuple[int, int]:
    """Tokens of the prompt and of each response of rows of this length: a quarter and the rest."""
    whole = longest or WITHOUT_LIMIT
    return whole // 4, whole - whole // 4


def _default(config: str, name: str) -> Any:
    module, _, cls = config.rpartition(".")
    field = next(f for f in fields(getattr(import_module(module), cls)) if f.name == name)
    found = field.default if field.default_factory is MISSING else field.default_factory()
    return getattr(found, "value", found)
