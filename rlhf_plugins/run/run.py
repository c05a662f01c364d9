"""Runs the stages of an assembled recipe in order and saves their results."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins import report as reports
from rlhf_plugins.contract import processes
from rlhf_plugins.contract.rows import Data
from rlhf_plugins.contract.run import StageResult
from rlhf_plugins.data.file_names import RECIPE
from rlhf_plugins.errors import ComponentError, RlhfError, RunError, StopRun, shown
from rlhf_plugins.recipe import provenance
from rlhf_plugins.recipe.assemble import Assembled
from rlhf_plugins.recipe.course import courses
from rlhf_plugins.recipe.members import SEEDS, SWEEP
from rlhf_plugins.registry.discovery import OWN_FILE
from rlhf_plugins.registry.registry import registry as installed
from rlhf_plugins.report.settings import warnings as sampled_otherwise
from rlhf_plugins.report.words import duration
from rlhf_plugins.run import blame, changed_options, distributed, origin
from rlhf_plugins.run.files import forecasts, reporting
from rlhf_plugins.run.files.folder import RunFolder, own
from rlhf_plugins.run.files.lock import locked
from rlhf_plugins.run.hooks import Hooks
from rlhf_plugins.run.rows import counted, loaded, refuse_rows, text_alone
from rlhf_plugins.run.stage import starts
from rlhf_plugins.run.stage.perform import outcome, perform
from rlhf_plugins.run.stage.stage_run import stage_run
from rlhf_plugins.run.stop import Ended, Stop
from rlhf_plugins.run.time_left import after, left

if TYPE_CHECKING:
    from rlhf_plugins.contract.run_kinds import Stage
    from rlhf_plugins.contract.workload import Course
    from rlhf_plugins.recipe.check import AnyRecipe
    from rlhf_plugins.registry.discovery import Plugin
    from rlhf_plugins.report.schema import Report

Say = Callable[[str], None]
LARGE = 2**31  # bytes of weights from which on a bar shows that they load


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, with the report and the page that a plugin left there.

    Of a recipe with `seeds` or `sweep`, `members` are the folders of its trainings, and `folder` holds them.
    """

    folder: Path
    unreported: str = ""  # why the report could not be written
    members: tuple[Path, ...] = ()

    @property
    def report(self) -> Report:
        """Raises RunError when there is none, because the plugin that writes it failed or is disabled."""
        return reports.read(self.folder)

    @property
    def page(self) -> Path:
        """Where the report is shown, if there is one."""
        return self.folder / reports.PAGE


def run_recipe(
    recipe: AnyRecipe,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    say: Say = print,
    fit: bool = False,
) -> Finished:
    """Checks a recipe and runs it as `run` does; the recipe that a run keeps runs in the folder that it is in.

    Args:
        recipe: the recipe as `check_recipe` takes it: a file, a bundled recipe's name, or a mapping.
        overrides: `a.b=value`, as on the command line.
        resume: go on with the run in `output_dir`; finished stages, and members of `seeds` and `sweep`, are kept.
        overwrite: delete the run in `output_dir` first.
        say: prints a line of progress.
        fit: compute fewer tokens or rows at once where this machine's GPU would not hold them; batches stay the same.

    Raises:
        RecipeError: it holds every fault of the recipe.
        RlhfError: as `run` raises it.
    """
    from rlhf_plugins.recipe.check import load_recipe, several

    processes.join()
    say = say if processes.is_main() else _nothing
    overrides = _fitted(recipe, overrides, say) if fit else overrides
    if members := several(recipe, overrides):
        from rlhf_plugins.run.members import run_members

        return run_members(recipe, overrides, members, resume=resume, overwrite=overwrite, say=say)
    if isinstance(recipe, Mapping):
        return run(load_recipe(recipe, overrides), resume=resume, overwrite=overwrite, say=say)
    path = Path(recipe)
    folder = RunFolder(path.parent)  # where a run keeps its own recipe
    if resume and folder.is_run:  # an error that names a missing plugin helps more than one about the recipe
        provenance.changes((p for p in origin.recorded(folder) if p.distribution != OWN_FILE), installed(), "the run")
    assembled = load_recipe(recipe, overrides)
    if folder.is_run and path.name == RECIPE and not any(word.startswith("output_dir=") for word in overrides):
        place = {"output_dir": str(folder.path)}  # wherever the folder was when it was written
        assembled = replace(assembled, output_dir=folder.path, resolved={**assembled.resolved, **place})
    return run(assembled, resume=resume, overwrite=overwrite, say=say)


def run(
    assembled: Assembled,
    resume: bool = False,
    overwrite: bool = False,
    say: Say = print,
) -> Finished:
    """Runs every stage that is not finished, in order, and calls the hooks of plugins.

    Raises:
        DataError: the data cannot be read; nothing has been written.
        PluginError: the run is to go on without a plugin that it was started with.
        RunError: the folder is not in the state that was asked for, or a stage failed.
        KeyboardInterrupt: a signal ended the run; the message lists the finished stages and the command that goes on.
    """
    from rlhf_plugins.engine import set_engine

    processes.join()
    distributed.refuse(assembled.stages)
    if several := [name for name in (SEEDS, SWEEP) if name in assembled.resolved]:
        raise RunError(f"a recipe with `{several[0]}` is several trainings: run it with run_recipe")
    with set_engine(assembled.engine) if assembled.engine != "auto" else nullcontext(), ExitStack() as held:
        processes.on_main(lambda: held.enter_context(locked(assembled.output_dir)))
        return _run(assembled, resume, overwrite, say if processes.is_main() else _nothing)


def _nothing(_: str) -> None:
    """Prints nothing: for processes beside the main one."""


def _fitted(recipe: AnyRecipe, overrides: Sequence[str], say: Say) -> Sequence[str]:
    """The overrides, with those that make the recipe fit this machine's GPU."""
    from rlhf_plugins.forecast.advice import fitted, largest
    from rlhf_plugins.forecast.cards import present

    card = present()
    if card is None:
        say("--fit: there is no GPU here, so nothing is changed")
        return overrides
    one = largest(recipe, overrides, card).overrides
    found = fitted(recipe, one, card)
    for override in (added := found.overrides[len(one) :]):
        say(f"--fit: {override}")
    for stage in found.forecast.too_large:
        say(f"--fit: nothing that leaves the batch the same makes stage {stage.name} fit; see rlhf estimate")
    return (*overrides, *added)


def _run(assembled: Assembled, resume: bool, overwrite: bool, say: Say) -> Finished:
    from transformers.utils.logging import disable_progress_bar

    from rlhf_plugins.engine.progress import weights_of

    size = weights_of(assembled.base.path)
    if not sys.stderr.isatty() or (size is not None and size < LARGE):
        disable_progress_bar()  # weights load in a moment; bars of trainings are kept
    folder = RunFolder(assembled.output_dir)
    for warning in processes.on_main(lambda: _allowed(folder, assembled, resume, overwrite)):
        say(f"warning: {warning}")
    ahead = forecasts.of_memory(assembled, say)
    say("data: loading")
    data = loaded(assembled, assembled.data)
    say(counted(data))
    if warning := text_alone(assembled.base, assembled.data, ("data",), data):
        say(f"warning: {warning}")
    for warning in sampled_otherwise(assembled.resolved["stages"]):
        say(f"warning: {warning}")
    refuse_rows(assembled, data)
    used = provenance.plugins((assembled.data, *assembled.stages), assembled.registry)
    if processes.count() > 1:
        distributed.refuse_differences(origin.facts(assembled, data, used))
    hooks = Hooks(assembled.registry, folder, say)
    staged = _Staged(assembled, data, folder, say, hooks, courses(assembled, data))
    processes.on_main(lambda: staged.begin(used, resume, overwrite))
    folder.note(**forecasts.noted(ahead))
    distributed.refuse_other_folder(folder)
    with staged.stop.listening(say):
        try:
            processes.on_main(lambda: hooks.started(assembled.resolved))
            staged.run()
        except StopRun as stop:
            folder.note(status="failed", message=str(stop), finished=reporting.now())
            when = "it went on" if resume else "its first stage"
            raise RunError(f"the run was stopped before {when}: {stop}") from stop
        finally:
            if processes.is_main():
                staged.finish()
    return Finished(folder.path, hooks.unreported)


def _allowed(folder: RunFolder, assembled: Assembled, resume: bool, overwrite: bool) -> list[str]:
    """Warnings about what has changed since the run was started. Raises RunError where a change forbids to go on."""
    from rlhf_plugins.engine.weights.loading import load_tokenizer

    _refuse(folder, resume, overwrite)
    if not resume:
        if not os.path.isdir(assembled.base.path):
            load_tokenizer(assembled.base)  # a run whose base is nowhere leaves no folder
        return []
    changed_options.amendments(folder, assembled, _digested(folder, assembled))
    origin.refuse_other_base(folder, assembled.base.path)
    return list(origin.other_versions(folder, assembled.registry))


def _digested(folder: RunFolder, assembled: Assembled) -> set[str]:
    return origin.digested(folder, assembled.resolved["base"], assembled.base.path)


def _refuse(folder: RunFolder, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite deletes it; give one of them")
    if resume and not folder.is_run:
        raise RunError(f"{folder.path} holds no run to resume; leave out --resume")
    if resume or folder.is_free or (overwrite and folder.is_run):
        return
    if folder.is_run:
        raise RunError(f"{folder.path} holds a run: add --resume or --overwrite, or give another output_dir=...")
    raise RunError(f"{folder.path} is not empty and not a run of rlhf; give another output_dir=...")


@dataclass
class _Staged:
    """The stages of one run, in one process or in each of several."""

    assembled: Assembled
    data: Data
    folder: RunFolder
    say: Say
    hooks: Hooks
    courses: Mapping[str, Course | None]
    stop: Stop = field(default_factory=Stop)

    def begin(self, used: list[Plugin], resume: bool, overwrite: bool) -> None:
        """Makes the folder, or takes it back to where the run goes on. Raises RunError where rows changed since."""
        folder, assembled = self.folder, self.assembled
        if resume:
            origin.refuse_other_rows(folder, assembled, self.data)
            folder.drop_checkpoints()
            for sentence in (changed := changed_options.amend(folder, assembled, _digested(folder, assembled))):
                self.say(f"warning: {sentence}")
            if changed:
                folder.note(**origin.noted(assembled, used), plugins=[vars(plugin) for plugin in used])
        if overwrite and not folder.is_free:
            folder.remove()
        if not resume:
            status = reporting.birth(self.data, used) | origin.noted(assembled, used)
            folder.start(assembled.resolved, {**status, distributed.PROCESSES: processes.launched()})
        self.discard()

    def kept(self) -> list[StageResult]:
        """The finished stages up to the first that is not finished."""
        return self.folder.kept([stage.name for stage in self.assembled.stages])

    def discard(self) -> None:
        """Deletes the stages after the first that is not finished: they were made from what it will make again."""
        after = len(self.kept()) + 1
        for index, stage in enumerate(self.assembled.stages[after:], after):
            if (old := self.folder.stage(index, stage.name)).exists():
                self.say(f"{self._place(index)}: deleted, since an earlier stage is not finished")
                shutil.rmtree(own(old))

    def run(self) -> None:
        results = self.kept()
        for index, stage in enumerate(self.assembled.stages):
            if index < len(results):
                self.say(f"{self._place(index)}: finished before")
                continue
            course, ahead = self.courses[stage.name], left(self.courses, results)
            self.folder.note(status="running", stage=stage.name, message="", steps=course and course.steps, left=ahead)
            failed = forecasts.failed()
            results.append(self._guarded(index, stage, tuple(results)))
            processes.on_main(lambda: origin.note_base(self.folder, self.assembled.base.path))
            self.folder.note(**forecasts.after_trials(self.assembled, failed))
            for sentence in outcome(results[-1]):
                self.say(f"{self._place(index)}: {sentence}")
        processes.gathered(None)  # wait until all processes are done
        over: dict[str, Any] = {"stage": None, "message": "", "steps": None, "left": None}
        self.folder.note(status="finished", finished=reporting.now(), **over)

    def finish(self) -> None:
        """Calls the hooks of the end, which write the report. A signal in between leaves the rest of them out."""
        self.stop.reporting = True
        try:
            self.hooks.finished()
        except KeyboardInterrupt:
            self.hooks.unreported = self.stop.why
        finally:
            self.stop.reporting = False

    def _place(self, index: int) -> str:
        return f"[{index + 1}/{len(self.assembled.stages)}] {self.assembled.stages[index].name}"

    def _guarded(self, index: int, stage: Stage, finished: tuple[StageResult, ...]) -> StageResult:
        """The stage's result, saved; when it stops, the status has the reason, the error also the command to go on."""
        try:
            return self._run(index, stage, finished)
        except KeyboardInterrupt:
            message = self._stopped("interrupted", stage, self.stop.why)
            raise Ended(message, self.stop.number) from None
        except ComponentError as error:
            where, message = self.folder.stage(index, stage.name), str(error)
            if processes.is_main():
                message = blame.of_component(error, where, self.assembled)
            raise RunError(self._stopped("failed", stage, message)) from error
        except RlhfError as error:
            raise RunError(self._stopped("failed", stage, str(error))) from error
        except BaseException as error:  # also a plugin that ends the process
            raise RunError(self._stopped("failed", stage, self._reason(error, index, stage))) from error

    def _reason(self, error: BaseException, index: int, stage: Stage) -> str:
        """What went wrong, in words; the traceback is in a file."""
        from rlhf_plugins.engine.out_of_memory import ADVICE, out_of_memory

        if lost := processes.lost(error):
            return lost
        trace = self.folder.stage(index, stage.name) / f"traceback{processes.index() or ''}.txt"
        with suppress(OSError):  # a full disk must not hide the error
            trace.parent.mkdir(exist_ok=True)
            trace.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        where = blame.of_plugin(error, self.assembled.registry)
        kept = f" (traceback in {trace})" if trace.exists() else ""
        short = f"; {forecasts.words(self.folder.status(), stage.name)}; {ADVICE}" if out_of_memory(error) else ""
        return f"{type(error).__name__}: {error}{where}{kept}{short}"

    def _run(self, index: int, stage: Stage, finished: tuple[StageResult, ...]) -> StageResult:
        from rlhf_plugins.engine import out_of_memory, progress

        self.stop.begin()
        for sentence in processes.on_main(lambda: self.folder.rewind(self.folder.stage(index, stage.name))):
            self.say(f"warning: {sentence}")
        fresh = processes.on_main(lambda: self.folder.fresh_stage(index, stage.name))
        run = stage_run(self.assembled, self.data, fresh, finished, stage)
        begins = starts.in_words(stage, run.places)
        ahead = left(self.courses, finished)
        parts = ["running", begins, f"about {duration(ahead)} left of the run" if ahead else ""]
        self.say(f"{self._place(index)}: {', '.join(filter(None, parts))}")
        services = replace(run.services, hooks=self.hooks, stop=self.stop, checkpoint=self.assembled.checkpoint)
        words = forecasts.words(self.folder.status(), stage.name)
        with progress.before(after(self.courses, finished, stage.name)), out_of_memory.during(words):
            return perform(replace(run, name=stage.name, services=services), stage)

    def _stopped(self, status: str, stage: Stage, reason: str) -> str:
        """Records that the run stopped, and returns the error message."""
        self.stop.reporting, reason = True, shown(" ".join(reason.split()))
        try:
            self.folder.note(status=status, stage=stage.name, message=reason, finished=reporting.now())
        except RunError as error:
            reason = f"{reason}; and {error}"
        done = ", ".join(result.name for result in self.kept()) or "none"
        again = f"rlhf run --resume {shlex.quote(str(self.folder.path / RECIPE))}"
        again += f", in {processes.launched()} processes" if processes.launched() > 1 else ""
        cure = f" (if an option is the fault, add stages.{stage.name}.OPTION=VALUE)" if status == "failed" else ""
        how = reason if status == "interrupted" else f"{status}: {reason}"
        when = "once the cause is gone, " if status == "failed" else ""
        return f"stage {stage.name} {how}\nfinished stages: {done}\n{when}go on with: {again}{cure}"
