"""Runs the members of a recipe with `seeds` or `sweep`, each in a folder of its own; finished ones are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_plugins.contract import processes
from rlhf_plugins.data.files import put, read_json
from rlhf_plugins.errors import RlhfError, RunError
from rlhf_plugins.recipe.members import SEEDS, SWEEP, Member
from rlhf_plugins.run import origin
from rlhf_plugins.run.changed_options import FREE
from rlhf_plugins.run.files.difference import difference
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.run.files.lock import locked
from rlhf_plugins.run.stop import Ended

if TYPE_CHECKING:
    from rlhf_plugins.recipe.check import AnyRecipe
    from rlhf_plugins.report.schema import Report
    from rlhf_plugins.run.run import Finished

MEMBERS = "members.json"  # label of a member -> what its seeds have in common

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Member:
    """One member of a recipe, where it is run."""

    recipe: AnyRecipe
    overrides: tuple[str, ...]
    folder: RunFolder
    title: str  # begins its lines of progress

    def run(self, resume: bool, overwrite: bool, say: Say) -> bool:
        """Trains it or goes on with it, unless it is finished; whether it did. Raises as `run.run_recipe` does."""
        from rlhf_plugins.run.run import run_recipe

        def said(text: str) -> None:
            say(f"{self.title}: {text}")

        there = self.folder.is_run
        if resume and _is_finished(self.folder):
            said("finished before")
            return False
        run_recipe(self.recipe, self.overrides, resume=resume and there, overwrite=overwrite and there, say=said)
        return True

    def refuse_another(self) -> list[str]:
        """A sentence for each version that is another than the finished member was trained with.

        Raises:
            RunError: it was trained with another recipe, base or file.
        """
        from rlhf_plugins.recipe.check import load_recipe

        now, folder = load_recipe(self.recipe, self.overrides), self.folder
        own = origin.digested(folder, now.resolved["base"], now.base.path)
        if changed := difference(folder.recipe(), now.resolved, FREE, digested=own):
            raise RunError(f"{folder.path} was trained with another recipe: {changed}; give another output_dir=...")
        origin.refuse_other_base(folder, now.base.path)
        origin.refuse_other_files(folder, now.resolved)
        return origin.otherwise(folder, now.registry)


def run_members(
    recipe: AnyRecipe,
    overrides: Sequence[str],
    members: Sequence[Member],
    *,
    resume: bool,
    overwrite: bool,
    say: Say,
) -> Finished:
    """Trains every member; one that fails does not keep the others from being trained.

    Raises:
        RecipeError: the recipe has a fault with a seed or a value of the sweep.
        RunError: another run is in the folder, it is not in the state that was asked for, a finished member is of
            another recipe, base or file, or a member failed.
    """
    from rlhf_plugins.recipe.check import check_recipe
    from rlhf_plugins.run.run import Finished

    root = Path(check_recipe(recipe, overrides)["output_dir"])
    every = [_placed(recipe, overrides, root, one, f"[{place}/{len(members)}]") for place, one in enumerate(members, 1)]
    with ExitStack() as held:
        processes.on_main(lambda: held.enter_context(locked(root)))
        processes.on_main(lambda: _refuse(root, [member.folder for member in every], resume, overwrite))
        if resume:
            processes.on_main(lambda: _refuse_others(every, say))
        processes.on_main(lambda: _note(root, members))
        failed = _trained(root, every, resume, overwrite, say)
    if failed:
        raise RunError(f"{len(failed)} of {len(members)} members failed: {', '.join(failed)}; go on with --resume")
    return Finished(root, members=tuple(member.folder.path for member in every))


def _trained(root: Path, every: Sequence[_Member], resume: bool, overwrite: bool, say: Say) -> list[str]:
    """Trains each member in turn; returns the names of those that failed."""
    failed, done = list[str](), list[_Member]()
    for member in every:
        try:
            trained = member.run(resume, overwrite, say)
            done.append(member)
            if overwrite:
                processes.on_main(lambda: _remove_finished(every, done))
            if trained:
                processes.on_main(lambda: _show(root, say))
        except Ended as ended:
            all_of_them = "That is for this member alone: for all of them, give the same command with --resume"
            raise Ended(f"{ended}\n{all_of_them}", ended.number) from None
        except RlhfError as error:
            if processes.launched() > 1:  # the others may be inside the member, where they would wait for ever
                raise
            failed.append(member.folder.path.name)
            say(f"{member.title}: {error}")
    return failed


def _show(root: Path, say: Say) -> None:
    """The page over the members so far; that it cannot be written ends no training."""
    try:
        write_page(root)
    except RlhfError as error:
        say(f"warning: the page over all members was not written: {error}")


def _placed(recipe: AnyRecipe, overrides: Sequence[str], root: Path, one: Member, place: str) -> _Member:
    there = f"output_dir={json.dumps(str(root / one.label))}"
    own = (*overrides, f"{SEEDS}=[]", f"{SWEEP}={{}}", *one.overrides, there)
    return _Member(recipe, own, RunFolder(root / one.label), f"{place} {one.label}")


def reports(root: Path) -> dict[str, list[Report]]:
    """The reports of the finished members in a folder, by what the seeds of each have in common.

    Raises:
        RunError: the folder holds no members.
    """
    from rlhf_plugins.run.files import reporting

    found: dict[str, list[Report]] = {}
    for label, group in _noted(root).items():
        folder = RunFolder(root / label)
        if _is_finished(folder):
            found.setdefault(group, []).append(reporting.build(folder))
    return found


def write_page(root: Path) -> Path:
    """Writes the page over all finished members, and returns its path.

    Raises:
        RunError: the folder holds no members.
        ReportError: the page cannot be written.
    """
    from rlhf_plugins.report import write_seeds

    unfinished = [label for label in _noted(root) if not _is_finished(RunFolder(root / label))]
    return write_seeds(root, reports(root), unfinished)


def is_several(root: Path) -> bool:
    """Whether a folder holds the members of a recipe."""
    return (root / MEMBERS).is_file()


def _refuse_others(members: Sequence[_Member], say: Say) -> None:
    """Raises RunError where a finished member is of another recipe, base or file; nothing has been trained then."""
    for member in members:
        for sentence in member.refuse_another() if _is_finished(member.folder) else ():
            say(f"{member.title}: warning: {sentence}")


def _remove_finished(members: Sequence[_Member], but: Sequence[_Member]) -> None:
    """Deletes the finished members that were made before these, so that no mean is over both."""
    for folder in (member.folder for member in members if member not in but and _is_finished(member.folder)):
        with locked(folder.path):
            folder.remove()


def _is_finished(folder: RunFolder) -> bool:
    return folder.is_run and folder.status().get("status") == "finished"


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
        put(root / MEMBERS, json.dumps({one.label: one.group for one in members}, indent=2).encode())
    except OSError as error:
        raise RunError(f"{root} cannot be written: {error.strerror}") from error


def _noted(root: Path) -> dict[str, str]:
    try:
        return {str(label): str(group) for label, group in read_json(root / MEMBERS).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{root / MEMBERS} cannot be read: {error}") from error
