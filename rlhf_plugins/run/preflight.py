"""What a run would refuse of the rows and the base of a recipe; it asks the code that refuses it, and loads no weights.

It reads local files as far as a check of a recipe has time for, and says what it left unread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.run import Weights
from rlhf_plugins.contract.workload import Kept
from rlhf_plugins.data.batches.chat import refuse_text
from rlhf_plugins.data.columns import columns_of, of_rows
from rlhf_plugins.data.partial_reads import is_partial, looking
from rlhf_plugins.errors import ComponentError, DataError, NotLookedAtError, RlhfError, RunError
from rlhf_plugins.recipe.column_needs import lacking_columns, unmet, unscorable
from rlhf_plugins.recipe.options import all_parts, parts_of
from rlhf_plugins.recipe.order import too_early
from rlhf_plugins.recipe.source import Keys
from rlhf_plugins.report.settings import warnings as sampled_otherwise
from rlhf_plugins.run.rows import counted, read, text_alone
from rlhf_plugins.run.stage.own_rows import refuse_unfit, without_held_out_of
from rlhf_plugins.run.stage.stage_run import Services, StageRun
from rlhf_plugins.run.stage.starts import BASE, BELOW, NOTHING_BELOW, PREVIOUS, at
from rlhf_plugins.trainers.optimizer_state import refuse_none_kept

if TYPE_CHECKING:
    from pathlib import Path

    from rlhf_plugins.contract.run_kinds import DataFormat, Stage, Task
    from rlhf_plugins.recipe.assemble import Assembled

Fault = tuple[Keys, str]
CHAT = ("chat_template", "system", "chat_template_kwargs")


class _Unread:
    """A placeholder for rows that are not looked at, which refuses to be read.

    Args:
        what: the rows, in words.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def __getattr__(self, name: str) -> Any:
        raise NotLookedAtError(self.what)


@dataclass
class Preflight:
    """Finds the faults of assembled recipes, and keeps what it did not look at, of what it saw a part, and warnings."""

    unseen: dict[str, None] = field(default_factory=dict)
    partly: dict[str, None] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)
    data: str = ""  # what was read and dropped of the recipe's rows, of the first recipe
    kept: dict[str, Kept] = field(default_factory=dict)  # what its stages take of their rows

    def __call__(self, assembled: Assembled) -> list[Fault]:
        """What a run would refuse; a fault that the first rows of a large file show is looked for in all of them."""
        faults, partly = self._looked(assembled, whole=False)
        if faults and partly:
            faults, partly = self._looked(assembled, whole=True)
        self.partly |= partly
        self.warnings |= dict.fromkeys(sampled_otherwise(assembled.resolved["stages"]))
        return [*faults, *_unfit_base(assembled), *_unwritable(assembled.output_dir)]

    def sentences(self) -> Iterator[str]:
        """Warnings, what was not looked at, and what in part."""
        yield from (f"warning: {warning}" for warning in self.warnings)
        if self.unseen:
            yield f"not looked at: {'; '.join(self.unseen)}"
        if self.partly:
            yield f"looked at in part: {'; '.join(self.partly)}"

    def _looked(self, assembled: Assembled, whole: bool) -> tuple[list[Fault], dict[str, None]]:
        faults = list[Fault]()
        with looking(whole) as look:
            rows = self._rows(assembled, assembled.data, ("data",), faults)
            for index, stage in enumerate(assembled.stages):
                keys: Keys = ("stages", index)
                own = rows if stage.data is None else self._rows(assembled, stage.data, (*keys, "data"), faults)
                if isinstance(own, Data) and isinstance(rows, Data) and own is not rows:
                    own = without_held_out_of(stage, own, rows)
                if own is not None:
                    found = [*_unkept(assembled, index), *_nothing_below(assembled, index)]
                    found += self._refused(assembled, stage, own)
                    faults += [((*keys, *below), message) for below, message in found]
        return faults, look.partly

    def _rows(self, assembled: Assembled, source: DataFormat, keys: Keys, faults: list[Fault]) -> Data | _Unread | None:
        """The rows of a source; None where they cannot be read, which adds a fault."""
        if not source.at_hand() or any(too_early(source)):
            parts = ((inside, part) for inside, part in parts_of(source) if part.kind == "data_format")
            found = [self._rows(assembled, part, (*keys, *inside), faults) for inside, part in parts]
            name = assembled.registry.find(type(source)).name
            return None if None in found else self._unread(f"rows of the format {name}")
        try:
            rows = read(assembled, source)
        except NotLookedAtError as error:
            return self._unread(str(error))
        except DataError as error:
            faults.append((keys, str(error)))
            return None
        try:
            refuse_text(rows, assembled.base.chat)
        except DataError as error:
            given = [name for name in CHAT if assembled.resolved.get(name)]
            faults.append(((given[0],), str(error)))
            return None
        if warning := text_alone(assembled.base, source, keys, rows):
            self.warnings[warning] = None
        if keys == ("data",) and not is_partial():
            self.data = self.data or counted(rows)
        return rows

    def _unread(self, what: str) -> _Unread:
        self.unseen[what] = None
        return _Unread(what)

    def _refused(self, assembled: Assembled, stage: Stage, data: Data | _Unread) -> list[Fault]:
        """What a stage refuses of rows and of the base, each with its place within the stage."""
        if isinstance(data, Data) and (found := self._unfit(assembled, stage, data)):
            return found
        services = Services(assembled.registry, assembled.output_dir)
        folder, begins = assembled.output_dir / stage.name, at(Weights(BASE, assembled.base, assembled.adapter))
        rows: Any = data
        run = StageRun(assembled.base, rows, assembled.seed, folder, (), stage.name, services, begins=begins)
        message = self._rehearsed(f"stage {stage.name}", partial(self._keep, stage, run))
        return [((), message)] if message else list(self._of_tasks(stage, run))

    def _keep(self, stage: Stage, run: StageRun) -> None:
        """Rehearses a stage, and notes what it takes of its rows."""
        if isinstance(found := stage.rehearse(run), Kept):
            self.kept.setdefault(stage.name, replace(found, rows=None) if is_partial() else found)

    def _of_tasks(self, stage: Stage, run: StageRun) -> Iterator[Fault]:
        """What the tasks of a stage refuse of their rows, each with its place within the stage."""
        for keys, task in all_parts(stage):
            if task.kind != "task":
                continue
            if far := [part for _, part in parts_of(task) if part.kind == "data_format" and not part.at_hand()]:
                self._unread(f"rows of the format {run.services.registry.find(type(far[0])).name}")
                continue
            if message := self._rehearsed(f"task {task.name}", partial(_refuse_asked, task, run)):
                yield keys, message

    def _unfit(self, assembled: Assembled, stage: Stage, data: Data) -> list[Fault]:
        """What a stage and its parts have against rows, before they are tokens."""
        registry = assembled.registry
        try:
            refuse_unfit(stage, data)
        except RlhfError as error:
            return [((), str(error))]
        nested = any(part.kind == "stage" for keys, part in all_parts(stage) if keys)
        lacking = [] if nested else unmet(stage, columns_of(data.train), lambda part: registry.find(type(part)).name)
        return [*lacking, *(lacking_columns(stage, of_rows(data)) if stage.scores_prompts else ())]

    def _rehearsed(self, what: str, rehearse: Callable[[], None]) -> str:
        """Why a stage or a task would stop before weights are loaded; empty where nothing was found."""
        try:
            rehearse()
        except NotLookedAtError as error:
            self.unseen[str(error)] = None
        except Exception as error:
            if isinstance(error, RlhfError) and not isinstance(error, ComponentError):
                return str(error)
            failed = f"{type(error).__name__}: {error}"  # maybe of what the rehearsal has in the place of weights
            self.unseen[f"what {what} refuses, since that failed ({failed})"] = None
        return ""


def _unfit_base(assembled: Assembled) -> Iterator[Fault]:
    """The fault that the adapter which a run starts from is damaged, or of another base."""
    from rlhf_plugins.engine.weights.starting import refuse_unfit

    try:
        refuse_unfit(Weights(BASE, assembled.base, assembled.adapter))
    except RunError as error:
        yield ("base",), str(error)


def _unwritable(folder: Path) -> Iterator[Fault]:
    """The fault that a run could not write its folder, or create it in the nearest existing one."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        yield ("output_dir",), f"{folder} cannot be written: {there} is no folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        yield ("output_dir",), f"{folder} cannot be written: this user may not write in {there}"


def _unkept(assembled: Assembled, index: int) -> Iterator[Fault]:
    """The fault that a stage goes on with the optimizer of a base for which none was kept."""
    stage, earlier = assembled.stages[index], assembled.stages[:index]
    made = frozenset[str]().union(*(each.makes for each in earlier))
    at_base = stage.from_ == BASE or (stage.from_ == PREVIOUS and "policy" not in made)
    if stage.optimizer == "start" and at_base and "base" not in made:
        try:
            refuse_none_kept(Weights(BASE, assembled.base, assembled.adapter))
        except RunError as error:
            yield ("optimizer",), str(error).removeprefix("optimizer: ")


def _nothing_below(assembled: Assembled, index: int) -> Iterator[Fault]:
    """The fault that an evaluation names the model below a base that is no policy."""
    from rlhf_plugins.recipe.base_policy import below

    if assembled.stages[index].reference != BELOW:
        return
    made = any("base" in stage.makes for stage in assembled.stages[:index])
    if made or below(Weights(BASE, assembled.base, assembled.adapter)) is None:
        yield ("reference",), NOTHING_BELOW


def _refuse_asked(task: Task, run: StageRun) -> None:
    """Raises RlhfError where a task cannot have its rows, or its reward cannot score answers to them."""
    asked = task.asked(run)
    if asked is None:
        return
    columns = frozenset(name for group in asked for name in group.columns)
    for _, message in (*lacking_columns(task, columns), *unscorable(task, asked)):
        raise RunError(message)
