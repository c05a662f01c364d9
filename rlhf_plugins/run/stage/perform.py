"""Runs one stage in its folder and saves its result: a stage of the recipe, or a part of another stage."""

from __future__ import annotations

import gc
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.metrics import curve
from rlhf_plugins.contract.run import Cost, Spec, StageResult
from rlhf_plugins.contract.workload import Known
from rlhf_plugins.errors import PluginError
from rlhf_plugins.run.memory import PeakMemory
from rlhf_plugins.run.stage.own_metrics import plain_metrics, without_number

if TYPE_CHECKING:
    from rlhf_plugins.contract.component import Component
    from rlhf_plugins.contract.rows import Data, Group
    from rlhf_plugins.contract.run_kinds import DataFormat, Stage
    from rlhf_plugins.registry.registry import Registry
    from rlhf_plugins.run.stage.stage_run import StageRun


logger = logging.getLogger(__name__)


def perform(run: StageRun, stage: Stage) -> StageResult:
    """The result of a stage, saved; its cost has those of its parts in it.

    Raises:
        DataError: a component of the stage needs a column that no row has.
        RunError: the stage cannot run on its rows.
        KeyboardInterrupt: the run was asked to end, so that what the stage made may not be whole; it is not saved.
        StopRun: a plugin wants the run to end.
    """
    from transformers import set_seed

    from rlhf_plugins.engine.cost import counting
    from rlhf_plugins.run import distributed
    from rlhf_plugins.run.stage.own_rows import own_data

    distributed.refuse_stage(stage)
    _free_memory()
    set_seed(run.seed)  # a stage runs alike whether it follows another or a resume
    services = run.services
    services.stage_started(run.folder, run.name, _steps(run, stage))
    with PeakMemory() as memory, counting() as counter:
        run.ending.counter = counter
        given = run if stage.data is None else replace(run, data=own_data(run, stage, stage.data))
        lost = _check_rows(given, stage)
        run.history.stage = stage
        result = stage.run(given)
    if services.stop.asked:
        raise KeyboardInterrupt
    _check_result(run, stage, result)
    result = _with_report(run, stage, given, result, lost)
    cost = sum(run.history.read, _filled(result.cost, processes.cost_of_all(counter.cost(memory.bytes))))
    processes.on_main(lambda: _describe(given, stage, result))
    result = _saved_result(run, _with_origin(run, stage, replace(result, cost=cost)))
    services.stage_finished(run.folder, result)
    return result


def _free_memory() -> None:
    """Frees what an earlier stage left, which would count as this one's memory."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check_rows(run: StageRun, stage: Stage) -> dict[str, int]:
    """Refuses rows that a stage cannot run on; returns how many it trains on without a field of messages, by reason."""
    from rlhf_plugins.data.batches.chat import refuse_text
    from rlhf_plugins.recipe.column_needs import refuse_lacking, refuse_unmet
    from rlhf_plugins.run import distributed
    from rlhf_plugins.run.stage.own_rows import refuse_unfit

    registry = run.services.registry
    refuse_unfit(stage, run.data)
    distributed.refuse_few_rows(stage, run.data)
    refuse_text(run.data, run.base.chat)
    _warn_of_text(run.name, stage, run)
    lost = _fields_lost(stage, run)
    refuse_unmet(stage, run.data.train, lambda part: _registered_name(part, registry) or type(part).__name__)
    refuse_lacking(stage, run.data)
    return lost


def _check_result(run: StageRun, stage: Stage, result: Any) -> None:
    """Raises PluginError for a result that is no StageResult, or has what no later stage could open."""
    if not isinstance(result, StageResult):
        name = _registered_name(stage, run.services.registry) or type(stage).__name__
        raise PluginError(f"stage {name} returned a {type(result).__name__}, not a StageResult")
    _check_specs(run, result)


def _with_report(
    run: StageRun, stage: Stage, given: StageRun, result: StageResult, lost: Mapping[str, int]
) -> StageResult:
    """The result with plain metrics, and with what is known of its rows in the report.

    Args:
        run: the run of the stage.
        stage: the stage.
        given: the same run with the rows that the stage was given.
        result: what the stage returned.
        lost: as `_check_rows` returns it.
    """
    from rlhf_plugins.data.changes.steps import made_by
    from rlhf_plugins.run.stage.own_rows import trained_before

    metrics, report = plain_metrics(_described(stage, run.services.registry), result.metrics), result.report
    found = _negative_margins(given.data.train) if "margin" in stage.needs_of() else []
    found += without_number(metrics)
    for note in found if processes.is_main() else ():
        logger.warning("%s: %s", run.name or "the stage", note)
    left_out = {**lost, **report.left_out}
    if stage.data is not None:
        left_out = {**lost, **_left_out_of_its_data(run, stage.data, given.data), **report.left_out}
        report = replace(report, own_data=_sizes(given.data))
    notes = [*trained_before(run, stage, given), *made_by(given.data.train), *found, *report.notes]
    return replace(result, metrics=metrics, report=replace(report, notes=notes, left_out=left_out))


def _with_origin(run: StageRun, stage: Stage, result: StageResult) -> StageResult:
    """The result with the names of the stage and of what it started from, its lineage, and all that it logged."""
    from rlhf_plugins.run.stage.starts import names

    curves = {name: curve(name, sorted(points.items())) for name, points in run.history.log.curves().items()}
    begins: dict[str, Any] = names(stage, run.places)
    used = _registered_name(stage, run.services.registry)
    return replace(result, name=run.name, stage=used, opened=run.opened, curves={**curves, **result.curves}, **begins)


def outcome(result: StageResult) -> Iterator[str]:
    """What was left out or cut, by reason, where anything was; then the time, the peak memory and the last loss."""
    left_out = ", ".join(f"{count} x {reason}" for reason, count in result.report.left_out.items() if count)
    if left_out:
        yield f"left out or cut: {left_out}"
    cost, loss = result.cost, result.curves.get("loss")
    memory = f", peak memory {cost.peak_bytes / 2**30:.2f} GiB" if cost.peak_bytes else ""
    losses = [value for _, value in loss.points if value is not None] if loss else []
    yield f"finished in {cost.seconds:.1f} s{memory}" + (f", loss {losses[-1]:.4g}" if losses else "")


def _steps(run: StageRun, stage: Stage) -> int | None:
    """About how many steps of the optimizer it will take; None where that is unknown before its data is read."""
    own = run.data if stage.data is None else None
    rows = len(own.train) if own else stage.data.known_rows() if stage.data else None
    asked = (len(own.prompts.get("train", ())) or None) if own else None
    course = stage.course(Known(rows, run.base.lengths.max_length, prompts=asked))
    return course.steps if course else None


def _warn_of_text(name: str, stage: Stage, given: StageRun) -> None:
    """Logs that the chat template renders none of a stage's own rows; a run says it of the recipe's."""
    from rlhf_plugins.recipe.order import too_early
    from rlhf_plugins.run.rows import text_alone

    if stage.data is None or any(too_early(stage.data)) or not processes.is_main():
        return
    if warning := text_alone(given.base, stage.data, ("stages", name, "data"), given.data):
        logger.warning("%s: %s", name or "the stage", warning)


def _fields_lost(stage: Stage, run: StageRun) -> dict[str, int]:
    """Rows that a stage trains on without some field of their messages, by reason; each is said in the log."""
    from rlhf_plugins.data.batches.rendered import fields_lost
    from rlhf_plugins.engine.weights.loading import load_row_encoder
    from rlhf_plugins.run.stage.own_rows import TRAINED

    if stage.makes.isdisjoint(TRAINED):
        return {}
    found = fields_lost(run.data.train, cache(lambda: load_row_encoder(run.base)))
    for reason, count in found.items() if processes.is_main() else ():
        logger.warning("%s: %d of %d rows have a %s", run.name or "the stage", count, len(run.data.train), reason)
    return found


def _negative_margins(groups: Iterable[Group]) -> list[str]:
    """A sentence on margins below 0; none where there are none."""
    from rlhf_plugins.data.columns import contradicting, negative_margins

    of, count = negative_margins(comparison for group in groups for comparison in group.comparisons)
    return [f"Of its training rows {contradicting(count, of)}."] if count else []


def _sizes(data: Data) -> dict[str, int]:
    """Groups to train on and held out; of data without groups its prompts."""
    splits = {"train": data.train, "test": data.test} if data.train or data.test else data.prompts
    return {name: len(splits.get(name, ())) for name in ("train", "test")}


def _left_out_of_its_data(run: StageRun, source: DataFormat, data: Data) -> dict[str, int]:
    """What was left out of the rows of a stage's own, by reason, without what the stages that made them left out."""
    from rlhf_plugins.recipe.options import all_parts
    from rlhf_plugins.recipe.order import named_stages

    named = {name for _, part in all_parts(source) for _, name, what in named_stages(part) if what == "data"}
    before = Counter[str]()
    for result in run.finished:
        if result.name in named and result.data is not None:
            before.update(result.data.dropped)
    return {f"its data, {reason}": count for reason, count in (Counter(data.dropped) - before).items()}


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Afterwards the random state is as before, so that a part that is read from disk makes no difference."""
    import numpy as np
    import torch

    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what transformers seeds)
    with torch.random.fork_rng():
        yield
    random.setstate(of_python)
    np.random.set_state(of_numpy)  # noqa: NPY002


def _check_specs(run: StageRun, result: StageResult) -> None:
    """Raises PluginError for a policy or reward that no later stage could open."""
    from rlhf_plugins.recipe.assemble import component

    for kind, specs in (("generator", result.policies), ("reward", result.rewards)):
        for spec in specs.values():
            component(kind, spec, run.services.registry)


def _describe(run: StageRun, stage: Stage, result: StageResult) -> None:
    """Completes the folders that the stage saved: plugins of a reward model, base of a policy, prompts, modules."""
    from rlhf_plugins.run.stage.saved_models import note_model, note_policy, note_reward

    for folder in _saved(run, result.rewards):
        note_reward(run, stage, folder)
    for folder in _saved(run, result.policies):
        note_policy(run, folder)
    for folder in (*_saved(run, result.policies), *_saved(run, result.rewards)):
        note_model(run, folder)


def _saved(run: StageRun, specs: Mapping[str, Spec]) -> Iterator[Path]:
    """The folders of specs that are the stage's own, not those of its parts."""
    for spec in specs.values():
        folder = Path(str(spec.get("path", "")))
        of_part = any(folder.is_relative_to(run.folder / part) for part in run.history.names)
        if folder.is_relative_to(run.folder) and not of_part:
            yield folder


def _saved_result(run: StageRun, result: StageResult) -> StageResult:
    """The result as a later process will read it; of several processes the main one writes it."""
    files = run.services.files(run.folder)
    if processes.count() == 1:
        return files.save(run.folder, result)

    def save() -> None:
        files.save(run.folder, result)

    processes.on_main(save)
    return files.result(run.folder)


def _filled(given: Cost, counted: Cost) -> Cost:
    """The cost that a stage gave; where it gave none, the one that was counted."""
    return Cost(**{name: getattr(given, name) or value for name, value in vars(counted).items()})


def _described(stage: Stage, registry: Registry) -> str:
    """A stage with its plugin, for an error."""
    try:
        found = registry.find(type(stage))
    except PluginError:
        return f"stage {type(stage).__name__}"
    return f"stage {found.name} of plugin {found.plugin}"


def _registered_name(part: Component, registry: Registry) -> str:
    """Empty for a class that no plugin registered, such as a script's own."""
    try:
        return registry.find(type(part)).name
    except PluginError:
        return ""
