"""What a stage is given: the implementation of `contract.run.Run`, for runs, tests and scripts alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.run import Base, Budget, Curve, Json, Policy, RewardModel, Spec, StageResult, Step
from rlhf_plugins.registry.registry import registry as installed
from rlhf_plugins.run.handed_on import HandedOn, Part, find, handed_on

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.recipe.assemble import Assembled
    from rlhf_plugins.registry.registry import Registry

Log = Callable[[str, int, Mapping[str, float]], None]  # a stage's name, a step, its numbers


def unheard(stage: str, step: int, values: Mapping[str, float]) -> None:
    """Takes numbers of a step where nobody wants them."""


@dataclass(frozen=True)
class Services:
    """What all stages of a run share."""

    registry: Registry = field(default_factory=installed)
    log: Log = unheard


@dataclass
class Memory:
    """What a stage did so far."""

    opened: dict[str, None] = field(default_factory=dict)  # lineages, in order
    parts: list[StageResult] = field(default_factory=list)  # of its own `train` calls


@dataclass(frozen=True)
class StageRun:
    """A stage's view of its run."""

    base: Base
    data: Data
    seed: int
    folder: Path
    earlier: tuple[StageResult, ...] = ()
    name: str = ""
    services: Services = field(default_factory=Services)
    backbone: Any = None
    memory: Memory = field(default_factory=Memory)

    @property
    def finished(self) -> tuple[StageResult, ...]:
        """Earlier stages, then the parts of this one."""
        return (*self.earlier, *self.memory.parts)

    @property
    def opened(self) -> tuple[str, ...]:
        """The lineage so far."""
        return tuple(self.memory.opened)

    def sharing(self, backbone: Any) -> StageRun:
        """The same run, in which what is opened shares a loaded base."""
        return replace(self, backbone=backbone)

    def policy(self, name: str | None = None) -> Policy:
        """A policy that answers prompts. Raises RunError where there is none of that name."""
        if name is None:
            return self.open("generator", {"use": "trained", "path": None})
        return self.open("generator", find(self.finished, "policies", name).spec)

    def reference(self) -> Policy:
        """What the KL is measured from: what this stage starts from."""
        return self.policy()

    def reward(self, name: str | None = None) -> RewardModel:
        """A reward model. Raises RunError where there is none of that name."""
        from rlhf_plugins.reward_models.handle import reward_handle

        return reward_handle(self.open("reward", find(self.finished, "rewards", name).spec))

    def open(self, kind: str, spec: str | Spec) -> Any:
        """A component, built for this run where its `build` takes a run alone."""
        from rlhf_plugins.recipe import assemble

        self._note(kind, spec)
        made = assemble.component(kind, spec, self.services.registry)
        return made.build(self) if _is_built_of_a_run(made) else made

    def spec(self, component: object) -> dict[str, Any]:
        """A component in a recipe's words."""
        from rlhf_plugins.recipe import assemble

        return assemble.spec(component, self.services.registry)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Reports numbers of a step."""
        self.services.log(self.name, step, values)

    def train(
        self,
        stage: Any,
        *,
        name: str,
        data: Data | None = None,
        start: str | None = None,
        carry: frozenset[str] = frozenset(),
        until: Callable[[Step], bool] | None = None,
        budget: Budget | None = None,
    ) -> StageResult:
        """Runs another stage inside this one."""
        raise NotImplementedError

    def fit(self, trainer: Any) -> Mapping[str, Curve]:
        """Trains a transformers Trainer."""
        raise NotImplementedError

    def once(self, name: str, make: Callable[[], Json]) -> Json:
        """Makes something at most once."""
        raise NotImplementedError

    def stopped(self) -> bool:
        """Whether the run was asked to end."""
        return False

    def _note(self, kind: str, spec: str | Spec) -> None:
        """Adds to the lineage what earlier stages handed on."""
        parts: Mapping[str, Part] = {"generator": "policies", "reward": "rewards"}
        found: list[HandedOn] = list(handed_on(self.finished, parts[kind])) if kind in parts else []
        self.memory.opened |= {one.lineage: None for one in found if one.spec == spec}


def stage_run(assembled: Assembled, data: Data, folder: Path, earlier: tuple[StageResult, ...]) -> StageRun:
    """What a stage of a recipe is given that runs in `folder` after others; what it logs goes nowhere."""
    changed = [result for result in earlier if result.base]
    base = replace(assembled.base, path=str(changed[-1].base)) if changed else assembled.base
    run = StageRun(base, data, assembled.seed, folder, earlier, services=Services(assembled.registry))
    run.memory.opened |= {f"{result.name}.base": None for result in changed[-1:]}
    return run


def _is_built_of_a_run(component: Any) -> bool:
    build = getattr(component, "build", None)
    return build is not None and [*inspect.signature(build).parameters] == ["run"]
