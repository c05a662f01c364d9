"""A run in several processes: what is refused before anything loads, and whether all are about to do the same."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.guards import named
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.options import parts
from rlhf_plugins.run.files.difference import difference

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.contract.run_kinds import Stage
    from rlhf_plugins.recipe.assemble import Assembled
    from rlhf_plugins.run.files.folder import RunFolder

BY_BATCH = {"policy_loss", "reduction", "kl"}  # kinds that see a process's own part
TRAINER, BATCH, EVALUATED = "trainer", "per_device_train_batch_size", "per_device_eval_batch_size"  # names in a recipe
PROCESSES = "processes"  # key of the status: how many there were at the start
PRECISION = "ACCELERATE_MIXED_PRECISION"  # environment variable that accelerate sets


def refuse(stages: Iterable[Stage]) -> None:
    """Raises RunError for a stage that runs in one process alone, or computes otherwise than the launch says."""
    if processes.count() == 1:
        return
    for stage in stages:
        refuse_stage(stage)
        _refuse_precision(stage)


def refuse_stage(stage: Stage) -> None:
    """Raises RunError where a stage, or a component of it, needs one process."""
    if processes.count() == 1:
        return
    if stage.processes == "one":
        raise RunError(
            f"stage {stage.name} runs in one process, and {processes.count()} were launched: launch it alone with "
            "`rlhf run`, in a recipe of its own that goes on from this run (`base: RUN#STAGE`)"
        )
    if processes.divides_optimizer() and stage.trainer is not None and not stage.zero:
        raise RunError(
            f"stage {stage.name} was not tried under DeepSpeed, for which the launch asks: write `distributed_type: "
            "MULTI_GPU`"
        )
    if processes.shards() and stage.trainer is not None and not stage.shards:
        asked = "ZeRO-3" if processes.zero3() else "FSDP"
        raise RunError(
            f"stage {stage.name} trains whole copies, and the launch asks for {asked}: write `distributed_type: "
            "MULTI_GPU`"
        )
    try:
        stage.fits_processes(processes.count())
    except ValueError as error:
        raise RunError(f"stage {stage.name}: {error}") from error
    for part in parts(stage):
        if part.kind in BY_BATCH and part.uses_batch_mates:
            raise RunError(
                f"stage {stage.name}: {named(part)} compares the rows of a whole minibatch, and several "
                "processes would show it parts of one: launch the recipe with one"
            )


def refuse_few_rows(stage: Stage, data: Data) -> None:
    """Raises RunError where a stage trains on fewer groups than there are processes."""
    if stage.trainer is not None and len(data.train) < processes.count():
        raise RunError(
            f"stage {stage.name}: {processes.count()} processes for {len(data.train)} groups to train on: launch at "
            f"most {max(1, len(data.train))}"
        )


def _refuse_precision(stage: Stage) -> None:
    import torch

    from rlhf_plugins.engine.precision import half_precision

    in_file = processes.zero_precision()
    launched = in_file if in_file != "no" else os.environ.get(PRECISION, "no").lower()
    given = stage.trainer
    if launched in ("no", "") or given is None:
        return
    half = half_precision()
    scaled = given.get("fp16", half is torch.float16 and given.get("bf16") is None)
    own = "fp16" if scaled else "bf16" if given.get("bf16", half is torch.bfloat16) else "no"
    if own != launched:
        words = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
        if in_file == launched:
            says, other = f"of DeepSpeed says {launched}.enabled: true", f"{launched}: {{enabled: auto}}"
        else:
            says, other = f"of accelerate says mixed_precision: {launched}", "mixed_precision: 'no'"
        raise RunError(
            f"stage {stage.name} computes in {words[own]}, and the configuration {says}: write {other} there, or "
            f"trainer: {{{launched}: true}} in the stage"
        )


def refuse_differences(own: Mapping[str, Any], does: str = "train") -> None:
    """Raises RunError, in all processes, where one does not have these facts of what it is about to train, or score."""
    every = processes.gathered((socket.gethostname(), own))
    for place, (host, theirs) in enumerate(every):
        if found := difference(every[0][1], theirs):
            words = found.replace(" was ", f" is in process 0 on {every[0][0]} ", 1).replace(" and is now ", " and ", 1)
            raise RunError(f"process {place} on {host} would {does} otherwise: {words} there; make them the same")


def comparable(folder: RunFolder, assembled: Assembled) -> tuple[Any, Any]:
    """The recipe that a run was started with and the one it is to go on with, without what the number of processes
    changes: where there are more or fewer of them, the batch of each.

    Raises:
        RunError: the batches of all of them together would be others.
    """
    before, now = folder.recipe(), assembled.resolved
    was, are = folder.status().get(PROCESSES, 1), processes.launched()
    if was == are:
        return before, now
    stages: Sequence[Any] = assembled.stages
    names = [stage.name for stage in stages]
    specs = (dict(zip(names, recipe.get("stages", ()), strict=False)) for recipe in (before, now))
    old, new = (dict(_batches(each, "stages")) for each in specs)
    for stage in stages:
        if stage.setting(BATCH) is not None:
            plain = replace(stage, trainer={})
            for name in (BATCH, EVALUATED) if stage.setting("eval_strategy") != "no" else (BATCH,):
                for sizes in (old, new):
                    sizes.setdefault(f"stages.{stage.name}.{TRAINER}.{name}", plain.setting(name))
    if new.keys() - old.keys():  # a change of the recipe
        return before, now
    where = f"{folder.path} was started in {_named(was)}, and now there {'is' if are == 1 else 'are'} {are}"
    for path, size in old.items():
        if size * was % are:
            raise RunError(f"{where}, and {path}={size} of each makes batches of {size * was}, which do not divide")
    wanted = {path: size * was // are for path, size in old.items()}
    if other := [f"{path}={size}" for path, size in wanted.items() if new.get(path) != size]:
        raise RunError(f"{where}: batches stay the same with {' '.join(other)}; or launch {was} again")
    return _without_batches(before), _without_batches(now)


def _named(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _batches(spec: Any, path: str) -> Iterator[tuple[str, int]]:
    """The batches that the `trainer` blocks in a part of a recipe give, by path."""
    if isinstance(spec, list):
        spec = {str(place): each for place, each in enumerate(spec)}
    for name, value in spec.items() if isinstance(spec, Mapping) else ():
        if name in (BATCH, EVALUATED):
            yield f"{path}.{name}", value
        else:
            yield from _batches(value, f"{path}.{name}")


def _without_batches(spec: Any) -> Any:
    if isinstance(spec, list):
        return [_without_batches(each) for each in spec]
    if not isinstance(spec, Mapping):
        return spec
    return {name: _without_batches(each) for name, each in spec.items() if name not in (BATCH, EVALUATED)}


def refuse_other_folder(folder: RunFolder) -> None:
    """Raises RunError, in all processes, where one does not see the folder that the main one writes."""
    every = processes.gathered((socket.gethostname(), folder.is_run))
    for place, (host, sees) in enumerate(every):
        if not sees:
            raise RunError(
                f"process {place} on {host} does not see {folder.path}, which process 0 on {every[0][0]} writes: give "
                "an output_dir on a file system that all machines share"
            )
