"""A run in several processes: what is refused before anything loads, and whether all of them are about to do the same.

It knows stages by their traits, and no launcher.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract import processes
from rlhf_plugins.errors import RunError
from rlhf_plugins.run.difference import difference

if TYPE_CHECKING:
    from rlhf_plugins.contract.component import Component
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.contract.run_kinds import Stage
    from rlhf_plugins.run.folder import RunFolder

BY_BATCH = {"reward_loss", "preference_loss", "policy_loss", "reduction", "kl"}  # kinds that see a process's own part
PROCESSES = "processes"  # in the status: how many there were at the start
PRECISION = "ACCELERATE_MIXED_PRECISION"  # in the environment, as accelerate sets it


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
    try:
        stage.fits_processes(processes.count())
    except ValueError as error:
        raise RunError(f"stage {stage.name}: {error}") from error
    for part in _parts(stage):
        if part.kind in BY_BATCH and getattr(part, "uses_batch_mates", False):
            raise RunError(
                f"stage {stage.name}: {type(part).__name__} compares the groups of a whole batch, and several "
                "processes would show it parts of one: launch the recipe with one"
            )


def refuse_few_rows(stage: Stage, data: Data) -> None:
    """Raises RunError where a stage trains on fewer groups than there are processes."""
    if hasattr(stage, "trainer") and len(data.train) < processes.count():
        raise RunError(
            f"stage {stage.name}: {processes.count()} processes for {len(data.train)} groups to train on: launch at "
            f"most {max(1, len(data.train))}"
        )


def _refuse_precision(stage: Stage) -> None:
    import torch

    from rlhf_plugins.engine.precision import half_precision

    launched = os.environ.get(PRECISION, "no").lower()
    given: Mapping[str, Any] | None = getattr(stage, "trainer", None)
    if launched in ("no", "") or given is None:
        return
    half = half_precision()
    scaled = given.get("fp16", half is torch.float16 and given.get("bf16") is None)
    own = "fp16" if scaled else "bf16" if given.get("bf16", half is torch.bfloat16) else "no"
    if own != launched:
        words = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
        asked = f"write `mixed_precision: 'no'` there, or trainer: {{{launched}: true}} in the stage"
        raise RunError(
            f"stage {stage.name} computes in {words[own]}, and the configuration of accelerate says mixed_precision: "
            f"{launched}: {asked}"
        )


def _parts(component: Component) -> Iterable[Component]:
    from rlhf_plugins.recipe.needs import all_parts

    return (part for _, part in all_parts(component))


def refuse_differences(own: Mapping[str, Any]) -> None:
    """Raises RunError, in all processes, where one does not have these facts of what it is about to train."""
    every = processes.gathered((socket.gethostname(), own))
    for place, (host, theirs) in enumerate(every):
        if found := difference(every[0][1], theirs):
            words = found.replace(" was ", f" is in process 0 on {every[0][0]} ", 1).replace(" and is now ", " and ", 1)
            raise RunError(f"process {place} on {host} would train otherwise: {words} there; make them the same")


def refuse_other_count(folder: RunFolder) -> None:
    """Raises RunError where the run was started in another number of processes, of which each has its batch."""
    before, now = folder.status().get(PROCESSES, 1), processes.launched()
    if before != now:
        raise RunError(
            f"{folder.path} was started in {before} processes, each with its part of a batch, and now there are "
            f"{now}: launch {before} again, or give another output_dir"
        )


def refuse_other_folder(folder: RunFolder) -> None:
    """Raises RunError, in all processes, where one does not see the folder that the main one writes."""
    every = processes.gathered((socket.gethostname(), folder.is_run))
    for place, (host, sees) in enumerate(every):
        if not sees:
            raise RunError(
                f"process {place} on {host} does not see {folder.path}, which process 0 on {every[0][0]} writes: give "
                "an output_dir on a file system that all machines share"
            )
