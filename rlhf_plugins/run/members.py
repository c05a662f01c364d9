"""Runs the members of a recipe with `seeds` or `sweep`, each in a folder of its own; finished ones are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_plugins.contract import processes
from rlhf_plugins.data.files import put, read_json
from rlhf_plugins.errors import RlhfError, RunError
from rlhf_plugins.recipe.members import SEEDS, SWEEP, Member
from rlhf_plugins.run.difference import difference
from rlhf_plugins.run.folder import RunFolder

if TYPE_CHECKING:
    from rlhf_plugins.recipe.check import AnyRecipe
    from rlhf_plugins.report.schema import Report
    from rlhf_plugins.run.run import Finished

FILE = "members.json"  # label of a member -> what its seeds have in common


@dataclass(frozen=True)
class _Member:
    """One member of a recipe, where it is run."""

    recipe: AnyRecipe
    overrides: tuple[str, ...]
    folder: RunFolder
    say: Callable[[str], None]

    def run(self, resume: bool, overwrite: bool) -> None:
        """Raises RlhfError as `run.run_recipe` does."""
        from rlhf_plugins.run.run import run_recipe

        if resume and self.folder.is_run and self.folder.status().get("status") == "finished":
            self._refuse_another()
            self.say("finished before")
            return
        again = resume and self.folder.is_run
        run_recipe(self.recipe, self.overrides, resume=again, overwrite=overwrite and self.folder.is_run, say=self.say)

    def _refuse_another(self) -> None:
        from rlhf_plugins.recipe.check import check_recipe

        now = check_recipe(self.recipe, self.overrides)
        if changed := difference(self.folder.recipe(), now, ("output_dir", "engine")):
            raise RunError(
                f"{self.folder.path} was trained with another recipe: {changed}; give another output_dir=..."
            )


def run_members(
    recipe: AnyRecipe,
    overrides: Sequence[str],
    members: Sequence[Member],
    *,
    resume: bool,
    overwrite: bool,
    say: Callable[[str], None],
) -> Finished:
    """Trains every member; one that fails does not keep the others from being trained.

    Raises:
        RecipeError: the recipe has a fault with a seed or a value of the sweep.
        RunError: the folder is not in the state that was asked for, or a member failed.
    """
    from rlhf_plugins.recipe.check import check_recipe
    from rlhf_plugins.run.run import Finished

    root = Path(check_recipe(recipe, overrides)["output_dir"])
    folders = {member.label: RunFolder(root / member.label) for member in members}
    processes.on_main(lambda: _refuse(root, folders.values(), resume, overwrite))
    processes.on_main(lambda: _note(root, members))
    failed = {}
    for place, member in enumerate(members, 1):
        where = f"[{place}/{len(members)}] {member.label}"
        place_of = f"output_dir={json.dumps(str(root / member.label))}"
        own = (*overrides, f"{SEEDS}=[]", f"{SWEEP}={{}}", *member.overrides, place_of)

        def said(text: str, where: str = where) -> None:
            say(f"{where}: {text}")

        try:
            _Member(recipe, own, folders[member.label], said).run(resume, overwrite)
        except RlhfError as error:
            if processes.launched() > 1:  # the others may be inside the member, where they would wait for ever
                raise
            failed[member.label] = str(error)
            said(str(error))
    if failed:
        raise RunError(f"{len(failed)} of {len(members)} members failed: {', '.join(failed)}; go on with --resume")
    return Finished(root, members=tuple(folder.path for folder in folders.values()))


def reports(root: Path) -> dict[str, list[Report]]:
    """The reports of the finished members in a folder, by what the seeds of each have in common.

    Raises:
        RunError: the folder holds no members.
    """
    from rlhf_plugins.run import reporting

    found: dict[str, list[Report]] = {}
    for label, group in _noted(root).items():
        folder = RunFolder(root / label)
        if folder.is_run and folder.status().get("status") == "finished":
            found.setdefault(group, []).append(reporting.build(folder))
    return found


def is_several(root: Path) -> bool:
    """Whether a folder holds the members of a recipe."""
    return (root / FILE).is_file()


def _refuse(root: Path, folders: Iterable[RunFolder], resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite deletes it; give one of them")
    there = [folder for folder in folders if not folder.is_free]
    if RunFolder(root).is_run:
        raise RunError(f"{root} holds a run of its own; give another output_dir=...")
    if there and not resume and not overwrite:
        raise RunError(f"{there[0].path} is there: add --resume or --overwrite, or give another output_dir=...")
    if resume and not is_several(root):
        raise RunError(f"{root} holds no members to resume; leave out --resume")


def _note(root: Path, members: Sequence[Member]) -> None:
    """Keeps these members alone: those of another call may have another recipe, and no mean is over both."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        put(root / FILE, json.dumps({one.label: one.group for one in members}, indent=2).encode())
    except OSError as error:
        raise RunError(f"{root} cannot be written: {error.strerror}") from error


def _noted(root: Path) -> dict[str, str]:
    try:
        return {str(label): str(group) for label, group in read_json(root / FILE).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{root / FILE} cannot be read: {error}") from error
