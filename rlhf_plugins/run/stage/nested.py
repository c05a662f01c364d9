"""A stage inside a stage: what it starts from, and whether it was finished before with the same inputs."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.run import Budget, StageResult, Step
from rlhf_plugins.data.file_names import CALL, RESULT
from rlhf_plugins.data.files import put, read_json
from rlhf_plugins.data.stage_outputs import HandedOn, Part, find, handed_on
from rlhf_plugins.engine.progress import before
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.recipe.options import parts
from rlhf_plugins.run.files import results
from rlhf_plugins.run.files.checkpoints import of_checkpoint
from rlhf_plugins.run.files.difference import difference
from rlhf_plugins.run.files.folder import ONCE, cleared
from rlhf_plugins.run.stage.perform import perform, random_state_kept
from rlhf_plugins.run.stage.starts import PREVIOUS, Places, places

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.contract.run_kinds import Stage
    from rlhf_plugins.engine.cost import Counter
    from rlhf_plugins.run.stage.stage_run import StageRun

logger = logging.getLogger(__name__)


@dataclass
class Ending:
    """When a stage should end before its last step."""

    until: Callable[[Step], bool] | None = None
    budget: Budget | None = None
    counter: Counter | None = None  # counts what the stage used so far
    reached: bool = False

    def see(self, step: Step) -> None:
        """Notes whether this step is the last; `until` sees it with the cost so far, of this process."""
        if self.until is not None and not self.reached:
            cost = self.counter.cost() if self.counter else step.cost
            self.reached = self.until(replace(step, cost=cost))

    def __call__(self) -> bool:
        """Whether the stage should end now, as the main process says; all of them must call it."""
        if self.until is None and self.budget is None:
            return False
        given = vars(self.budget) if self.budget and self.counter else {}
        limits = {name: limit for name, limit in given.items() if limit is not None}
        spent = processes.spent(self.counter, limits) if self.counter else {}
        return processes.from_main(self.reached or any(spent[name] >= limit for name, limit in limits.items()))


@dataclass(frozen=True)
class Given:
    """The arguments of `Run.train`, but for the stage."""

    name: str
    data: Data | None
    start: str | None
    carry: Collection[str]
    until: Callable[[Step], bool] | None
    budget: Budget | None


def train(run: StageRun, stage: Stage, given: Given) -> StageResult:
    """Runs a stage as a part of another, or reads what a finished call made.

    Raises:
        RunError: an argument is wrong, or another call was made under this name.
    """
    _check(stage, given)
    stage, given = _with_options(stage, given)
    start = None if given.start is None else find(run.finished, "policies", given.start)
    folder, begins = run.folder / given.name, _begins(run, stage, start)
    call = _call(run, stage, given, begins)
    processes.on_main(lambda: _same_call(folder, call))
    if processes.from_main((folder / RESULT).exists()):
        result = run.services.files(run.folder).result(folder)
        if given.name not in run.history.names:
            run.history.read.append(result.cost)
    else:
        with random_state_kept(), before(None):
            result = perform(_inner(run, given, begins), stage)
    run.history.opened |= dict.fromkeys(begins.lineage)
    if given.name not in run.history.names:
        run.history.names.append(given.name)
        run.history.parts.append(result)
    return result


def _with_options(stage: Stage, given: Given) -> tuple[Stage, Given]:
    """The stage with the name and the budget of the call as its own options, where it has such options."""
    own: Any = stage
    names = {item.name for item in dataclasses.fields(own)}
    if "name" in names:
        own = replace(own, name=given.name)
    if given.budget is not None and "budget" in names:
        own, given = replace(own, budget=given.budget), replace(given, budget=None)
    return own, given


def _begins(run: StageRun, stage: Stage, start: HandedOn | None) -> Places:
    """Where a part begins: at the policy that the call names, that its own `from` names, or where this stage does."""
    if start is None:
        return places(stage, run.policies, run.places, chains=False)
    if stage.from_ != PREVIOUS:
        raise RunError(f"train: the stage has `from: {stage.from_}`, and the call gives start={start.name!r}")
    begins, lineage = run.policies.named(start.qualified)
    found = places(stage, run.policies, replace(run.places, start=begins), chains=False)
    return replace(found, lineage=(lineage, *found.lineage))


def _inner(run: StageRun, given: Given, begins: Places) -> StageRun:
    for sentence in processes.on_main(lambda: run.services.files(run.folder).rewind(run.folder / given.name)):
        logger.warning("%s", sentence)
    folder = processes.on_main(lambda: cleared(run.folder / given.name))
    inner = replace(
        run,
        data=given.data or run.data,
        folder=folder,
        earlier=run.finished,
        name=f"{run.name}/{given.name}".lstrip("/"),
        carry=frozenset(given.carry),
        history=type(run.history)(),
        ending=Ending(given.until, given.budget),
    )
    return inner.beginning(begins)


def _check(stage: Stage, given: Given) -> None:
    from rlhf_plugins.recipe.naming import STAGE_NAME

    if not STAGE_NAME.fullmatch(given.name):
        raise RunError(f"train: the name {given.name!r} cannot name a folder; write letters, digits, '-', '_' and '.'")
    if given.name == ONCE or of_checkpoint(Path(given.name)):
        raise RunError(f"train: a run keeps files of its own under {given.name!r}; give the call another name")
    for name in ("data", "budget"):
        if getattr(given, name) is not None and getattr(stage, name, None) is not None:
            raise RunError(f"train: the stage has `{name}` of its own, and the call gives another; leave one out")
    if isinstance(given.carry, str):
        raise RunError(f"train: carry is a set of words: write carry={{{given.carry!r}}}")
    try:
        stage.keeping(given.carry)
    except ValueError as error:
        raise RunError(f"train: {error}") from error


def _same_call(folder: Path, call: Mapping[str, Any]) -> None:
    """Notes the call. Raises RunError where another one was made in this folder."""
    file = folder / CALL
    if file.exists():
        if changed := difference(read_json(file), call):
            raise RunError(
                f"{folder} holds another call of train: {changed}; give this call another name, or delete the folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    put(file, to_json(call, indent=2) + b"\n")


def _call(run: StageRun, stage: Stage, given: Given, begins: Places) -> dict[str, Any]:
    """The stage and its inputs, as they are compared and saved."""
    from rlhf_plugins.data.store import digest

    root = run.services.files(run.folder).path
    takes = frozenset().union(*(part.takes for part in parts(stage)))
    lookups: Mapping[str, Part] = {"policy": "policies", "reward": "rewards"}
    opened = [one for name, part in lookups.items() if name in takes for one in handed_on(run.finished, part)]
    rows = given.data or run.data if stage.data is None else stage.data.load_in(run)
    call = {
        "stage": _spec(run, stage),
        "data": digest(rows),
        "base": results.relative(begins.start.base.path, root),
        "start": None if begins.start.folder is None else results.relative(begins.start.folder, root),
        "reference": results.relative(begins.reference.folder or begins.reference.base.path, root),
        "seed": run.seed,
        "budget": dataclasses.asdict(given.budget) if given.budget else None,
        "takes": {one.lineage: results.relative(one.spec, root) for one in opened},
    }
    several = {"processes": processes.launched()} if processes.launched() > 1 else {}  # each has its own batch
    carried = {"carry": sorted(set(given.carry))} if given.carry else {}  # calls of older versions are without it
    return json.loads(to_json(call | several | carried))


def _spec(run: StageRun, stage: Stage) -> dict[str, Any]:
    """The stage in a recipe's words, or its class and options where no plugin registered it."""
    try:
        return run.spec(stage)
    except PluginError:
        options = {item.name: repr(getattr(stage, item.name)) for item in dataclasses.fields(stage)}  # type: ignore[arg-type]
        return {"use": f"{type(stage).__module__}.{type(stage).__qualname__}", **options}
