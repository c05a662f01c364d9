"""What a run made, by a reference: `RUN`, `RUN#STAGE`, or the folder of a saved model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.run import Adapter, Base, Weights
from rlhf_plugins.data.file_names import ADAPTER
from rlhf_plugins.data.saved_steps import FOLDER, SavedStep, not_whole, part_of, saved_step, steps
from rlhf_plugins.data.stage_outputs import BASE, WORDS, Part, handed_on, of_run, split
from rlhf_plugins.errors import RunError, nearest
from rlhf_plugins.run.files.folder import RunFolder

if TYPE_CHECKING:
    from rlhf_plugins.engine.policy import Handle
    from rlhf_plugins.engine.prompt_form import Prompted
    from rlhf_plugins.reward_models.handle import RewardHandle

SPECS: Mapping[Part, str] = {"rewards": "saved", "policies": "trained"}  # `use` of a folder


@dataclass(frozen=True)
class Made:
    """A policy or a reward model that a run made, or that a folder holds."""

    label: str  # as messages call it, `runs/a#dpo`
    part: Part
    spec: Mapping[str, Any]
    run: RunFolder | None = None
    stage: str = ""  # which made it; empty where no run is known, `base` for the run's base
    name: str = ""  # that the stage gave it
    step: int | None = None  # of its training, where it is not the end of it

    @property
    def folder(self) -> Path | None:
        """Where it is saved; None where it is not a saved model but made of others, or the base."""
        path = self.spec.get("path")
        return Path(path) if path and Path(path).is_dir() else None

    @property
    def base(self) -> Base:
        """What the run started from, of what is made of others."""
        assert self.run is not None  # only a run makes what is not a folder
        return start_of_run(self.run).base

    @property
    def identity(self) -> str:
        """A hash of what is made of others: of its spec, and of every model that the run handed on."""
        from rlhf_plugins.reward_models.score_cache import identity

        assert self.run is not None
        specs = [one.spec for one in handed_on(self.run.finished(), *WORDS)]
        folders = sorted({path for spec in specs if (path := spec.get("path")) and Path(path).is_dir()})
        words = json.dumps([dict(self.spec), *(identity(Path(folder)) for folder in folders)], sort_keys=True)
        return blake2b(words.encode(), digest_size=16).hexdigest()

    def prompted(self) -> Prompted:
        """Whether it was trained on text or messages, as far as that is noted. Raises RunError as reading does."""
        from rlhf_plugins.engine.prompt_form import Prompted, noted_prompts

        return noted_prompts(self.folder) if self.folder else Prompted()

    def policy(self) -> Handle:
        """Opened. Raises RunError where it does not load."""
        from rlhf_plugins.saved.reload import load_policy

        self.check()
        found: Handle = load_policy(self.folder) if self.folder else self._open("generator")
        return found

    def reward(self) -> RewardHandle:
        """Opened. Raises RunError where it does not load."""
        from rlhf_plugins.saved.reload import load_reward_model

        self.check()
        found: RewardHandle = load_reward_model(self.folder) if self.folder else self._open("reward")
        return found

    def check(self) -> None:
        """Before it is loaded: raises RunError where its base, outside the run, has other files than at the start."""
        from transformers.utils.logging import disable_progress_bar

        from rlhf_plugins.data.digests import changed, of_base
        from rlhf_plugins.engine.weights.base_paths import whole_path
        from rlhf_plugins.run.origin import BASE as DIGESTS

        disable_progress_bar()  # of weights that load in a moment
        path = self._base()
        if path is None or self.run is None or whole_path(path) != whole_path(_whole_base(self.run)):
            return
        noted, now = self.run.status().get(DIGESTS), of_base(path)
        if isinstance(noted, dict) and now is not None and (what := changed(noted, now)):
            raise RunError(f"{self.label} was trained on another base: {Path(path) / what}; put that one back")

    def _base(self) -> str | None:
        """The path of the base that is needed to open it; None of a whole policy, which has everything itself."""
        from rlhf_plugins.engine import policy
        from rlhf_plugins.reward_models import opening

        if self.folder is None:
            return start_of_run(self.run).base.path if self.run else None
        if self.part == "rewards":
            return opening.saved_base(self.folder).path
        return policy.saved_base(self.folder).path if (self.folder / ADAPTER).exists() else None

    def _open(self, kind: str) -> Any:
        from rlhf_plugins.contract.rows import Data
        from rlhf_plugins.run.stage.stage_run import Services, StageRun
        from rlhf_plugins.run.stage.starts import at

        assert self.run is not None  # only a run makes what is not a folder
        start, services = start_of_run(self.run), Services(root=self.run.path)
        earlier = tuple(self.run.finished())
        run = StageRun(start.base, Data(()), 0, self.run.path, earlier, services=services, begins=at(start))
        return run.open(kind, self.spec)


def made(words: str, part: Part | None = None) -> Made:
    """What a reference means; of a run without a stage, the latest policy or, failing that, the latest reward model.

    Args:
        words: `RUN`, `RUN#STAGE`, `RUN#STAGE/NAME` where a stage made several, `RUN#STAGE@STEP` of a step that was
            saved, `RUN#base`, or a saved model's folder.
        part: which of the two is needed; None takes either.

    Raises:
        RunError: it is not there; the message names the known stages and the nearest.
    """
    wanted = _wanted(part)
    path, stage = split(words)
    folder, files = Path(path), RunFolder(Path(path))
    if not folder.is_dir():
        raise RunError(f"{path}: holds no {wanted}: there is no such folder {nearest(path, _runs_near(folder))}")
    if not files.is_run:
        if stage is not None:
            raise RunError(f"{path}: is no run, so it has no stage {stage!r} {nearest(path, _runs_near(folder))}")
        return _saved(folder, part)
    if stage == "":
        raise RunError(f"{words}: name a stage after the # {nearest('', _stages(files, part))}")
    return _of_run(files, stage, part)


def start_of_run(run: RunFolder) -> Weights:
    """What a run started from, as its recipe has it. Raises RunError where that is a policy which is gone."""
    from rlhf_plugins.recipe import base_policy
    from rlhf_plugins.recipe.assemble import chat_of
    from rlhf_plugins.sandbox import base_path

    recipe = run.recipe()
    path, quantization = base_path(str(recipe.get("base"))), recipe.get("quantization")
    adapter = recipe.get("adapter") and Adapter(**recipe["adapter"])
    return base_policy.weights(
        Base(path, None if quantization == "none" else quantization, adapter, chat=chat_of(recipe))
    )


def _whole_base(run: RunFolder) -> str:
    """The path of the whole model that a run started from; of a policy that is gone, as its recipe has it."""
    try:
        return start_of_run(run).base.path
    except RunError:
        return str(run.recipe().get("base"))


def _of_run(run: RunFolder, stage: str | None, part: Part | None) -> Made:
    parts = (part,) if part else tuple(WORDS)
    one = of_run(run.path, stage, lambda: handed_on(run.finished(), *parts), lambda: handed_on(run.every(), *parts))
    if one is not None:
        return Made(f"{run.path}#{one.stage}", one.part, one.spec, run, one.stage, one.name)
    if stage == BASE and part != "rewards":
        return Made(f"{run.path}#{BASE}", "policies", {"use": "base"}, run, BASE, BASE)
    if stage is not None and (step := saved_step(run.path, stage, part)):
        return _at_step(f"{run.path}#{stage}", run, step)
    known = nearest(stage or "", _stages(run, part))
    if stage is None:
        raise RunError(f"{run.path}: no finished stage made a {_wanted(part)} {known}")
    raise RunError(f"{run.path}#{stage}: {_why(run, stage, part)} {known}")


def _why(run: RunFolder, stage: str, part: Part | None) -> str:
    if any(result.name == stage for result in run.every()):
        return f"that stage made no {_wanted(part)}"
    if any(each.get("name") == stage for each in run.recipe()["stages"] if isinstance(each, Mapping)):
        return f"that stage has not finished{_so_far(run, stage, part)}"
    return f"the run has no stage {stage!r} that made a {_wanted(part)}"


def _so_far(run: RunFolder, stage: str, part: Part | None) -> str:
    """The newest step of a stage that `save_strategy` saved, in words."""
    every = {step: own for folder in run.path.glob(f"[0-9]*-{stage}") for step, own in steps(folder).items()}
    newest = max((step for step, own in every.items() if part in (None, own)), default=None)
    return f"; its newest saved step is {run.path}#{stage}@{newest}" if newest else ""


def _at_step(label: str, run: RunFolder, one: SavedStep) -> Made:
    spec = {"use": SPECS[one.part], "path": str(one.folder)}
    return Made(label, one.part, spec, run, one.stage, f"{one.stage}@{one.step}", one.step)


def _stages(run: RunFolder, part: Part | None) -> list[str]:
    """What may be written after the #, one name each."""
    own = [] if part == "rewards" else [BASE]
    every = handed_on(run.finished(), *((part,) if part else WORDS))
    several = {one.stage for one in every if sum(other.stage == one.stage for other in every) > 1}
    return [*own, *(one.qualified if one.stage in several else one.stage for one in every)]


def _saved(folder: Path, part: Part | None) -> Made:
    """A model by its own folder, with the run that it is in, where it still is in it."""
    if reason := not_whole(folder):
        raise RunError(f"{folder}: {reason}")
    found = part_of(folder)
    if found is None:
        raise RunError(f"{folder}: holds no {_wanted(part)}, and no run")
    if part not in (None, found):
        raise RunError(f"{folder}: holds a {WORDS[found]}, and a {_wanted(part)} is needed")
    for run in (RunFolder(above) for above in folder.resolve().parents):
        if run.is_run:
            for one in handed_on(run.every(), found):
                if Path(str(one.spec.get("path", ""))).resolve() == folder.resolve():
                    return Made(str(folder), found, one.spec, run, one.stage, one.name)
            if step := _of_stage(run, folder, found):
                return _at_step(str(folder), run, step)
    return Made(str(folder), found, {"use": SPECS[found], "path": str(folder)})


def _of_stage(run: RunFolder, folder: Path, part: Part) -> SavedStep | None:
    """The step of a stage of the recipe whose folder this is."""
    number, stage = FOLDER.fullmatch(folder.name), folder.resolve().parent
    known = [str(each.get("name")) for each in run.recipe()["stages"] if isinstance(each, Mapping)]
    name = stage.name.partition("-")[2]
    inside = number is not None and stage.parent == run.path.resolve() and name in known
    return SavedStep(name, int(number[1]), folder, part) if inside and number else None


def _runs_near(folder: Path) -> list[str]:
    """The runs beside a folder and below `runs`, as one would write them."""
    places = {folder.parent, Path("runs")}
    return [str(path) for place in places if place.is_dir() for path in place.iterdir() if RunFolder(path).is_run]


def _wanted(part: Part | None) -> str:
    return WORDS[part] if part else "policy or reward model"
