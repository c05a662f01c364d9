"""The implementation of `contract.run.Run`, for runs, tests and scripts alike."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.checkpoint import Checkpoint
from rlhf_plugins.contract.handles import Policy, RewardModel
from rlhf_plugins.contract.run import Base, Budget, Cost, Curve, Json, Spec, StageResult, Step, Weights
from rlhf_plugins.contract.run_kinds import Reward
from rlhf_plugins.data.files import put, read_json
from rlhf_plugins.data.stage_outputs import HandedOn, Part, find, handed_on
from rlhf_plugins.errors import RunError, StopRun
from rlhf_plugins.registry.registry import registry as installed
from rlhf_plugins.run.files.folder import ONCE, RunFolder
from rlhf_plugins.run.stage import nested
from rlhf_plugins.run.stage.nested import Ending
from rlhf_plugins.run.stage.starts import BASE, Places, Policies, at, base_after, places
from rlhf_plugins.run.stop import Stop

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.contract.run_kinds import Monitor, Stage
    from rlhf_plugins.recipe.assemble import Assembled
    from rlhf_plugins.registry.registry import Registry
    from rlhf_plugins.run.hooks import Hooks


@dataclass(frozen=True)
class Services:
    """What all stages of a run share. Without hooks no plugin is called; without a root each stage is its own run."""

    registry: Registry = field(default_factory=installed)
    root: Path | None = None
    hooks: Hooks | None = None
    stop: Stop = field(default_factory=Stop)
    checkpoint: Checkpoint | None = field(default_factory=Checkpoint)  # None keeps none

    def files(self, stage: Path) -> RunFolder:
        """The folder that saved paths are relative to."""
        return RunFolder(self.root or stage)

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Calls the hook. Raises StopRun where a plugin wants the run to end, and asks for it."""
        with self._stopping():
            self._call(lambda hooks: hooks.logged(stage, step, values))

    def log_samples(self, stage: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Calls the hook. Raises StopRun as `log` does."""
        with self._stopping():
            self._call(lambda hooks: hooks.sampled(stage, step, rows))

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Asks for the end of the run where a hook wants it."""
        try:
            yield
        except StopRun:
            self.stop.asked = True
            raise

    def stage_started(self, folder: Path, stage: str, total_steps: int | None) -> None:
        """Calls the hook. Raises StopRun where a plugin does not let the stage run."""
        self._call(lambda hooks: hooks.stage_started(folder, stage, total_steps))

    def stage_finished(self, folder: Path, result: StageResult) -> None:
        """Calls the hook."""
        self._call(lambda hooks: hooks.stage_finished(folder, result))

    def _call(self, hook: Callable[[Hooks], None]) -> None:
        """Calls a hook in the main process; without hooks, processes do not wait for one another."""
        if (hooks := self.hooks) is not None:
            processes.on_main(lambda: hook(hooks))


@dataclass
class Log:
    """What a stage logged so far, and when its last checkpoint was made."""

    calls: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    trainings: int = 0  # how many began so far
    kept_at: float = field(default_factory=time.monotonic)
    kept_step: int = 0

    def curves(self) -> dict[str, dict[int, float]]:
        """The number of each step by name; of several the last."""
        found: dict[str, dict[int, float]] = {}
        for step, values in self.calls:
            for name, value in values.items():
                found.setdefault(name, {})[step] = value
        return found


@dataclass
class History:
    """What a stage did so far."""

    stage: Any = None  # whose calls they are, while it runs
    opened: dict[str, None] = field(default_factory=dict)  # lineages, in order
    parts: list[StageResult] = field(default_factory=list)  # results of its own `train` calls
    names: list[str] = field(default_factory=list)  # names of the parts
    log: Log = field(default_factory=Log)
    read: list[Cost] = field(default_factory=list)  # costs of parts that were finished before


@dataclass(frozen=True)
class StageRun:
    """Implements `contract.run.Run`, whose docstrings apply here too."""

    base: Base
    data: Data
    seed: int
    folder: Path
    earlier: tuple[StageResult, ...] = ()
    name: str = ""
    services: Services = field(default_factory=Services)
    backbone: Any = None
    history: History = field(default_factory=History)
    ending: Ending = field(default_factory=Ending)
    begins: Places | None = None  # None: at the base, which is also the reference
    carry: frozenset[str] = frozenset()

    @property
    def places(self) -> Places:
        """The weights that the stage knows by a word."""
        return self.begins or at(Weights(BASE, self.base))

    @property
    def policies(self) -> Policies:
        """The policies of earlier stages and parts, as weights."""
        return Policies(self.finished, self.services.registry, self.places.base)

    def beginning(self, places: Places) -> StageRun:
        """The run of a stage that starts at these places."""
        self.history.opened |= dict.fromkeys(places.lineage)
        return replace(self, base=places.start.base, begins=places)

    @property
    def finished(self) -> tuple[StageResult, ...]:
        """See `Run`."""
        return (*self.earlier, *self.history.parts)

    @property
    def opened(self) -> tuple[str, ...]:
        """The lineage so far."""
        return tuple(self.history.opened)

    def sharing(self, backbone: Any) -> StageRun:
        """See `Run`."""
        return replace(self, backbone=backbone)

    def policy(self, name: str | None = None) -> Policy:
        """See `Run`."""
        from rlhf_plugins.engine.policy import open_policy

        if name is None:
            start = self.places.start
            return open_policy(start.folder, start.base, backbone=self.backbone)
        return self.open("generator", find(self.finished, "policies", name).spec)

    def reference(self) -> Policy:
        """See `Run`."""
        from rlhf_plugins.engine.policy import open_policy

        weights = self.places.reference
        return open_policy(weights.folder, weights.base, backbone=self.backbone)

    def weights(self, name: str) -> Weights:
        """See `Run`."""
        if name in ("start", "reference", BASE):
            known: Weights = getattr(self.places, name)
            return known
        return self.policies.named(name)[0]

    def reward(self, name: str | None = None) -> RewardModel:
        """See `Run`."""
        found: RewardModel = self.open("reward", find(self.finished, "rewards", name).spec)
        return found

    def open(self, kind: str, spec: str | Spec) -> Any:
        """See `Run`."""
        from rlhf_plugins.recipe import assemble
        from rlhf_plugins.reward_models.handle import reward_handle

        self._note(kind, spec)
        made = assemble.component(kind, spec, self.services.registry)
        if not _is_built_of_a_run(made):
            return made
        return reward_handle(made.build(self)) if isinstance(made, Reward) else made.build(self)

    def spec(self, component: object) -> dict[str, Any]:
        """See `Run`."""
        from rlhf_plugins.recipe import assemble

        return assemble.spec(component, self.services.registry)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Run`."""
        self.history.log.calls.append((step, dict(values)))
        self.services.log(self.name, step, values)
        self.ending.see(Step(self.name, step, None, dict(values)))

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Run`."""
        self.services.log_samples(self.name, step, rows)

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
        """See `Run`."""
        made = self.open("stage", stage) if isinstance(stage, str | Mapping) else stage
        return nested.train(self, made, nested.Given(name, data, start, carry, until, budget))

    def fit(self, trainer: Any, monitors: Sequence[Monitor] = ()) -> Mapping[str, Curve]:
        """See `Run`."""
        from rlhf_plugins.run.stage.fitting import fit

        return fit(self, trainer, monitors)

    def go_on(self, trainer: Any, last: bool = True) -> None:
        """See `Run`."""
        from rlhf_plugins.run.stage.checkpointing import go_on

        go_on(self, trainer, last)

    def once(self, name: str, make: Callable[[], Json]) -> Json:
        """See `Run`."""
        from rlhf_plugins.recipe.naming import STAGE_NAME

        if not STAGE_NAME.fullmatch(name):
            raise RunError(f"once: the name {name!r} cannot name a file; write letters, digits, '-', '_' and '.'")
        file = self.folder / ONCE / f"{name}.json"

        def remembered() -> Json:
            if not file.exists():
                made = make()
                try:
                    content = json.dumps(made)
                except (TypeError, ValueError) as error:
                    raise RunError(f"once: {name!r} should be what JSON can hold: {error}") from error
                file.parent.mkdir(parents=True, exist_ok=True)
                put(file, content.encode())
            return read_json(file)

        return processes.on_main(remembered)

    def stopped(self) -> bool:
        """See `Run`."""
        stop = self.services.stop
        stop.asked = any(processes.gathered(stop.stopped()))
        return stop.asked or self.ending()

    def _note(self, kind: str, spec: str | Spec) -> None:
        """Adds a spec that an earlier stage handed on to the lineage."""
        parts: Mapping[str, Part] = {"generator": "policies", "reward": "rewards"}
        found: list[HandedOn] = handed_on(self.finished, parts[kind]) if kind in parts else []
        self.history.opened |= {one.lineage: None for one in found if one.spec == spec}


def stage_run(
    assembled: Assembled, data: Data, folder: Path, earlier: tuple[StageResult, ...], stage: Stage
) -> StageRun:
    """The run of a recipe's stage in `folder`, after others; no hook is called."""
    root = base_after(Weights(BASE, assembled.base, assembled.adapter), earlier)
    begins, base = places(stage, Policies(earlier, assembled.registry, root), at(root)), root.base
    run = StageRun(base, data, assembled.seed, folder, earlier, services=Services(assembled.registry, folder.parent))
    if begins.start.name == BASE:
        run.history.opened |= {f"{result.name}.base": None for result in earlier if result.base == Path(base.path)}
    return run.beginning(begins)


def _is_built_of_a_run(component: Any) -> bool:
    build = getattr(component, "build", None)
    return build is not None and [*inspect.signature(build).parameters] == ["run"]
