"""The rows of a stage that has some of its own: which it may train on, and which it measures on after a training."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlhf_plugins.contract import processes
from rlhf_plugins.data.files import put, read_json
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.contract.run_kinds import DataFormat, Stage
    from rlhf_plugins.run.stage.stage_run import StageRun

logger = logging.getLogger(__name__)
TRAINED = ("policy", "reward")  # what a stage makes that trains on rows
TRAINED_ON = "trained_on.json"  # in the folder of such a stage: the hashes of the prompts of its own rows


def own_data(run: StageRun, stage: Stage, source: DataFormat) -> Data:
    """The rows of a stage that has its own; it trains on no prompt that the recipe's data hold out."""
    from rlhf_plugins.data.changes.mixing import trained

    data = without_held_out_of(stage, source.load_in(run), run.data)
    if stage.makes.isdisjoint(TRAINED):
        return data
    if processes.is_main():
        run.folder.mkdir(parents=True, exist_ok=True)
        put(run.folder / TRAINED_ON, json.dumps(sorted(trained(data))).encode())
    return data


def without_held_out_of(stage: Stage, data: Data, whole: Data) -> Data:
    """The rows of a stage's own, where it trains without the prompts that the recipe's data hold out."""
    from rlhf_plugins.data.changes.mixing import without_held_out

    return data if stage.makes.isdisjoint(TRAINED) else without_held_out(data, whole)


def refuse_unfit(stage: Stage, data: Data) -> None:
    """Raises RunError where a stage cannot run on these rows."""
    try:
        stage.fits_data(data)
    except ValueError as error:
        raise RunError(f"stage {stage.name}: {error}") from error


def trained_before(run: StageRun, stage: Stage, given: StageRun) -> list[str]:
    """Notes where a stage that only measures holds out prompts, of rows of its own, that were trained on."""
    from rlhf_plugins.data.changes.mixing import held_out, trained

    if stage.data is None or not stage.makes.isdisjoint(TRAINED):
        return []
    asked, found = held_out([given.data]), list[str]()
    for whose, prompts in (("the recipe's data train on", trained(run.data)), *_of_stages(run)):
        if both := len(asked & prompts):
            found.append(f"{both} of its {len(asked)} held-out prompts are among those that {whose}")
    for note in found if processes.is_main() else ():
        logger.warning("%s: %s", run.name or "the stage", note)
    return found


def _of_stages(run: StageRun) -> Iterator[tuple[str, set[str]]]:
    """Earlier stages with rows of their own, in words, and the prompts that they trained on."""
    root = run.services.root
    if root is None:
        return
    for file in sorted(root.rglob(TRAINED_ON)):
        name = file.parent.relative_to(root).as_posix().partition("-")[2]
        yield f"the stage {name} learned from", set(read_json(file))
