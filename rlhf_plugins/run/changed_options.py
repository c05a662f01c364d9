"""Which options of its unfinished stages a resumed run may change."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract import processes
from rlhf_plugins.data.file_names import CALL
from rlhf_plugins.data.stage_outputs import handed_on
from rlhf_plugins.errors import RunError, shown
from rlhf_plugins.run import distributed
from rlhf_plugins.run.files.checkpoints import newest_step
from rlhf_plugins.run.files.difference import difference
from rlhf_plugins.run.files.folder import WENT_ON, RunFolder, own
from rlhf_plugins.run.files.reporting import now

if TYPE_CHECKING:
    from rlhf_plugins.recipe.assemble import Assembled

LOGGING = frozenset({"logging_steps", "logging_first_step", "disable_tqdm"})  # of `trainer`; no weight depends on them
SAVING = frozenset({"save_strategy", "save_steps", "save_total_limit"})  # nor do these, unless the best is kept
FREE = ("output_dir", "engine", "checkpoint")


def amendments(folder: RunFolder, assembled: Assembled, digested: Collection[str]) -> dict[int, str]:
    """A sentence for each stage that is not finished and is to run otherwise, by its index.

    Args:
        digested: paths of the recipe that `difference` need not compare.

    Raises:
        RunError: the recipe differs in what finished stages were made from, or none is finished; or a changed stage
            would begin again and has checkpoints.
    """
    old, new = distributed.comparable(folder, assembled)
    kept = len(folder.finished())
    before, after = ({**recipe, "stages": recipe["stages"][:kept]} for recipe in (old, new))
    if differs := difference(before, after, FREE, digested=digested):
        cure = "resume it as it was started" if kept else "no stage of it is finished: --overwrite starts it again"
        raise RunError(f"{folder.path} was started with another recipe: {differs}; {cure}{_from_its_policy(folder)}")
    changed = dict(_others(old["stages"], new["stages"], kept, digested))
    for begun in _useless(folder, old["stages"], new["stages"], digested):
        if step := newest_step(begun):
            raise RunError(
                f"{begun} has a checkpoint of step {step}, and {changed[kept]}, with which the stage begins again: "
                f"resume it as it was, or delete {begun} first"
            )
    return changed


def amend(folder: RunFolder, assembled: Assembled, digested: Collection[str]) -> list[str]:
    """Makes the changed recipe the run's, without what a stage that begins again had begun. Returns the sentences."""
    changed = amendments(folder, assembled, digested)
    if not changed:
        return []
    old, new = distributed.comparable(folder, assembled)
    for left in _useless(folder, old["stages"], new["stages"], digested):
        shutil.rmtree(own(left))
    notes = [*folder.status().get(WENT_ON, ()), *(f"Went on at {now()}: {one}." for one in changed.values())]
    folder.start(assembled.resolved, {distributed.PROCESSES: processes.launched(), WENT_ON: notes})
    return list(changed.values())


def _from_its_policy(folder: RunFolder) -> str:
    """How another run goes on from the last policy, where a finished stage made one."""
    made = [one for one in handed_on(folder.finished(), "policies") if one.spec.get("path")]
    if not made:
        return ""
    name = made[-1].name if made[-1].name == made[-1].stage else made[-1].qualified
    return f"; to train its policy further, start a new run with base={folder.path}#{name}"


def _useless(folder: RunFolder, old: list[Any], new: list[Any], digested: Collection[str]) -> list[Path]:
    """What was begun of the first stage that is not finished, where the changed stage begins again."""
    kept = len(folder.finished())
    begun = sorted(folder.path.glob(f"{kept + 1:02d}-*"))
    has_parts = any(True for each in begun for _ in each.glob(f"**/{CALL}"))  # each with the options of its own
    before, after = ([s if has_parts else _learning(s) for s in stages[kept : kept + 1]] for stages in (old, new))
    return begun if difference(before, after, digested=digested) else []


def _learning(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage without the options that change no weight."""
    given = stage.get("trainer") or {}
    if given.get("eval_strategy", "no") not in ("no", False) and "eval_steps" not in given:
        return stage  # it evaluates every `logging_steps`
    free = LOGGING if given.get("load_best_model_at_end") else LOGGING | SAVING
    return {**stage, "trainer": {name: value for name, value in given.items() if name not in free}}


def _others(old: list[Any], new: list[Any], kept: int, digested: Collection[str]) -> Iterator[tuple[int, str]]:
    for index, (before, after) in enumerate(zip_longest(old, new)):
        if index < kept or before == after:
            continue
        if before is None or after is None:
            name = (before or after).get("name") or (before or after)["stage"]
            yield index, f"stage {shown(str(name))} was {'added' if before is None else 'left out'}"
        elif said := difference(before, after, path=f"stages.{index}", digested=digested):
            yield index, said
