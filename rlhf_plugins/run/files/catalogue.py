"""The runs in a folder: what each made, how two differ, and what of one may be deleted. It reads files alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_plugins.contract.run import StageResult
from rlhf_plugins.data.file_names import RESULT
from rlhf_plugins.data.stage_outputs import WORDS, handed_on
from rlhf_plugins.errors import RunError, nearest
from rlhf_plugins.run.files.checkpoints import OF_TRAINER
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.run.files.lock import in_use, locked

CACHES = ("reference.sqlite*", "*.scores.sqlite*")
UNTOLD = ("output_dir",)  # keys of a recipe that say nothing of what a run found
NOTED = ("base", "code", "versions", "hardware")  # entries of a status
RENAMED = {"data": "rows", "read": "files"}  # those that go by another name


@dataclass(frozen=True)
class Listed:
    """A run in a line."""

    path: Path
    status: str
    finished: int  # stages
    stages: int
    started: str
    seconds: float
    bytes: int


@dataclass(frozen=True)
class StageLine:
    """A finished stage, or one that is to come."""

    name: str
    stage: str
    finished: bool
    seconds: float = 0.0
    loss: float | None = None
    made: tuple[str, ...] = ()  # `policy runs/a#dpo`
    rows: str = ""  # its own data in words: `40 groups to train on, 0 held out`
    notes: tuple[str, ...] = ()  # notes of the report


def find(path: Path) -> RunFolder:
    """The run in a folder. Raises RunError with the runs near it."""
    run = RunFolder(path)
    if run.is_run:
        return run
    near = [str(one) for place in {path.parent, Path("runs")} for one in _below(place)]
    raise RunError(f"{path}: holds no run {nearest(str(path), near)}")


def listed(folder: Path) -> list[Listed]:
    """The runs in a folder, the newest last. Raises RunError where the folder is not there."""
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    return sorted((_line(RunFolder(path)) for path in _below(folder)), key=lambda line: line.started)


def _below(folder: Path, members: bool = True) -> Iterator[Path]:
    """The runs directly below a folder, and those of recipes with `seeds` or `sweep`, which are a level deeper."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and RunFolder(path).is_run:
            yield path
        elif path.is_dir() and members:
            yield from _below(path, members=False)


def _line(run: RunFolder) -> Listed:
    status, results = run.status(), run.finished()
    seconds = sum(result.cost.seconds for result in results)
    return Listed(
        run.path,
        state(run),
        len(results),
        len(run.recipe()["stages"]),
        status.get("started", ""),
        seconds,
        size(run.path),
    )


def state(run: RunFolder) -> str:
    """Its status; a run whose process is gone without having written that was killed."""
    found = str(run.status().get("status", "running"))
    return "killed" if found == "running" and not in_use(run.path) else found


def size(path: Path) -> int:
    """Bytes of all files below."""
    if path.is_file() or path.is_symlink():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() or file.is_symlink())


def stages(run: RunFolder) -> list[StageLine]:
    """Every stage of the recipe, in order, with what the finished ones made."""
    done = {result.name: result for result in run.finished() or run.every()}  # a session numbers no stage
    asked = {str(each.get("name", each["stage"])): str(each["stage"]) for each in run.recipe()["stages"]}
    lines = []
    for name, stage in {**asked, **{result.name: result.stage for result in done.values()}}.items():
        if (result := done.get(name)) is None:
            lines.append(StageLine(name, stage, False))
            continue
        curve = result.curves.get("loss")
        losses = [value for _, value in curve.points if value is not None] if curve else []
        made = [f"{WORDS[one.part]} {run.path}#{_name(one)}" for one in handed_on([result], *WORDS)]
        loss, notes = losses[-1] if losses else None, tuple(result.report.notes)
        lines.append(StageLine(name, stage, True, result.cost.seconds, loss, tuple(made), _own_rows(result), notes))
    return lines


def _own_rows(result: StageResult) -> str:
    """How many rows a stage's own data has; empty where it has none."""
    own = result.report.own_data
    return f"{own['train']} groups to train on, {own['test']} held out" if own else ""


def _name(one: Any) -> str:
    return one.stage if one.name == one.stage else one.qualified


def differences(old: RunFolder, new: RunFolder) -> list[tuple[str, str, str]]:
    """What differs, a key with both values: what they were made with (stages by their names), and scores."""
    ours, theirs = (dict(_facts(run)) for run in (old, new))
    keys = [*ours, *(key for key in theirs if key not in ours)]
    return [(k, ours.get(k, "-"), theirs.get(k, "-")) for k in keys if ours.get(k, "-") != theirs.get(k, "-")]


def made_with(run: RunFolder) -> dict[str, str]:
    """What a run was made with, by dotted name: recipe, rows, base and files by digest, code, versions, hardware."""
    recipe, status = run.recipe(), run.status()
    parts = {"": {name: value for name, value in recipe.items() if name not in UNTOLD}}
    parts |= {f"{RENAMED.get(name, name)}.": status.get(name) or {} for name in (*RENAMED, *NOTED)}
    return {key: value for path, part in parts.items() for key, value in _flat(part, path) if part}


def _facts(run: RunFolder) -> Iterator[tuple[str, str]]:
    yield from made_with(run).items()
    yield from _scores(run)


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Leaves of nested values; an element of a list that has a name is found by it."""
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _flat(each, f"{path}{name}.")
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for place, each in enumerate(value):
            name = each.get("name", each.get("use", place)) if isinstance(each, Mapping) else place
            yield from _flat(each, f"{path}{name}.")
    else:
        yield path.removesuffix("."), str(value)


def _scores(run: RunFolder) -> Iterator[tuple[str, str]]:
    from rlhf_plugins.run.files import reporting

    try:
        made = reporting.build(run)
    except RunError:
        return
    if made.policies:
        yield "scores", made.score_name
    for name, policy in made.policies.items():
        low, high = policy.gold.low, policy.gold.high
        within = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
        yield f"scores.{name}", f"{policy.gold.mean:.3f}{within}" if policy.gold.mean is not None else "-"


def prunable(run: RunFolder) -> list[Path]:
    """Checkpoints of finished stages, which nothing reads, and caches, which are computed again where needed."""
    done = [file.parent for file in run.path.rglob(RESULT)]
    found = [path for stage in done for path in sorted(stage.glob(OF_TRAINER)) if path.is_dir()]
    return [*found, *(path for pattern in CACHES for path in sorted(run.path.rglob(pattern)))]


def prune(run: RunFolder, paths: Sequence[Path]) -> None:
    """Deletes these. Raises RunError where the run is going on, or one cannot be deleted."""
    with locked(run.path):
        for path in paths:
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            except OSError as error:
                raise RunError(f"{path}: cannot be deleted: {error.strerror}") from error
