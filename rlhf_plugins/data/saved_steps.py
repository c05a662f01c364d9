"""Steps of a training that `save_strategy` saved: `RUN#STAGE@STEP`, or their folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf_plugins.data.file_names import ADAPTER, CHECKPOINTS, ENSEMBLE, POLICY, RECIPE, REWARD_MODEL, STATUS
from rlhf_plugins.data.stage_outputs import WORDS, Part
from rlhf_plugins.errors import RunError

FILES: Mapping[Part, tuple[str, ...]] = {  # a reward model may hold an adapter too, so that it comes first
    "rewards": (REWARD_MODEL, ENSEMBLE),
    "policies": (POLICY, ADAPTER, "config.json"),
}
REFERENCE, FOLDER = re.compile(r"(.+)@(\d+)"), re.compile(r"checkpoint-(\d+)")  # as it is written, and on the disk
LAST = "trainer_state.json"  # of the files of a step, the one that transformers writes last
CURE = "`trainer: {save_strategy: steps, save_steps: 20}` in a stage saves a model every 20 steps"


@dataclass(frozen=True)
class SavedStep:
    """A model of one step of a stage's training."""

    stage: str
    step: int
    folder: Path
    part: Part


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return os.path.isfile(folder / RECIPE) and os.path.isfile(folder / STATUS)  # False for a name that is too long


def part_of(folder: Path) -> Part | None:
    """Which kind of model a folder holds; None where it holds none."""
    return next((part for part, files in FILES.items() if any((folder / file).exists() for file in files)), None)


def saved_step(root: Path, name: str, part: Part | None) -> SavedStep | None:
    """What `STAGE@STEP` means in a run; None where the name has another form, or there is no such stage.

    Args:
        root: the run's folder.
        name: of the stage, and of a part of it behind a slash, with the step.
        part: which kind of model is needed; None takes either.

    Raises:
        RunError: that step was not saved, not wholly, or as another kind of model.
    """
    asked = REFERENCE.fullmatch(name)
    folder = None if asked is None else _stage_folder(root, asked[1])
    if asked is None or folder is None:
        return None
    stage, step, every = asked[1], int(asked[2]), steps(folder)
    found = folder / f"checkpoint-{step}"
    if reason := not_whole(found):
        raise RunError(f"{root}#{name}: {reason}")
    if step not in every:
        known = f"(known: {', '.join(map(str, every))})" if every else f"and no other: {CURE}"
        raise RunError(f"{root}#{name}: step {step} of that stage was not saved as a model {known}")
    if part not in (None, every[step]):
        raise RunError(f"{root}#{name}: is a {WORDS[every[step]]}, and a {WORDS[part or every[step]]} is needed")
    return SavedStep(stage, step, found, every[step])


def steps(stage: Path) -> dict[int, Part]:
    """The whole models of steps in a stage's folder, in their order."""
    numbers = {int(name[1]): path for path in stage.glob("*") if (name := FOLDER.fullmatch(path.name))}
    parts = {step: part_of(path) for step, path in sorted(numbers.items()) if not not_whole(path)}
    return {step: part for step, part in parts.items() if part}


def not_whole(folder: Path) -> str:
    """Why a folder inside a run is no model although it holds weights; empty where that is not so.

    It is the step of a training that ended while it was saved, or the state that a training goes on from.
    """
    whole = folder.resolve()
    run = next((each for each in whole.parents if is_run(each)), None)
    if run is None:
        return ""
    if CHECKPOINTS in whole.relative_to(run).parts:
        return f"is what `rlhf run --resume` goes on from, and no model; {CURE}"
    if FOLDER.fullmatch(folder.name) and folder.is_dir() and not (folder / LAST).exists():
        return f"{folder.name} is not whole: the run ended while it was saved; take another step"
    return ""


def _stage_folder(root: Path, name: str) -> Path | None:
    """The folder of a stage of a recipe or a session, or of a part of it (`stage/part`)."""
    stage, _, part = name.partition("/")
    named = re.compile(rf"(\d+-)?{re.escape(stage)}")
    found = [each / part for each in sorted(root.glob("*/")) if named.fullmatch(each.name)]
    return next((each for each in reversed(found) if each.is_dir()), None)
