"""A saved model that another run handed on, `runs/a` or `runs/a#dpo`, found in its files; it loads no model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rlhf_plugins.contract.run import MARK, StageResult
from rlhf_plugins.data.file_names import ADAPTER, CALL, RESULT
from rlhf_plugins.data.stage_outputs import BASE, WORDS, HandedOn, Part, handed_on, of_run, split
from rlhf_plugins.errors import RunError, nearest

IS_BASE = "is the base of that run, so write that one"
LAST = "\uffff"  # sorts after every name


def bases_beside(path: str, start: Path = Path()) -> list[str]:  # noqa: B008 (the working directory)
    """The runs, models and adapters in the folder of a path, which begins at `start`, written as the path is."""
    from rlhf_plugins.data.saved_steps import is_run

    files, folder = ("config.json", ADAPTER), os.path.dirname(path)
    inside = (start / folder).glob("*/") if os.path.isdir(start / folder) else ()
    found = [each.name for each in inside if is_run(each) or any(os.path.isfile(each / file) for file in files)]
    return [os.path.join(folder, name) for name in found]


def missing_rewards(path: str) -> dict[str, str]:
    """For `missing` of a component with the option `path`: why there is no saved reward model; empty where there is."""
    try:
        saved_folder(path, "rewards")
    except RunError as error:
        return {"path": str(error)}
    return {}


def saved_folder(words: str, part: Part = "policies") -> Path:
    """The folder of a saved model: a folder itself, a run (its latest), `RUN#STAGE` or `RUN#STAGE@STEP`.

    Raises:
        RunError: there is none, the stage made several, or the folder holds a step that is no whole model.
    """
    from rlhf_plugins.data.saved_steps import is_run, not_whole, saved_step

    path, name = split(words)
    root, what = Path(path), WORDS[part]
    if not root.is_dir():
        near = [str(each) for each in root.parent.glob("*") if is_run(each)]
        raise RunError(f"there is no folder {path!r} {nearest(path, near)}")
    if not is_run(root):
        if name is not None:
            raise RunError(f"{path!r} is no run, so it has no stage {name!r}")
        if reason := not_whole(root):
            raise RunError(f"{path!r}: {reason}")
        return root

    def made(files: list[Path]) -> list[HandedOn]:
        return handed_on([_result(file, part) for file in files], part)

    one = of_run(path, name, lambda: made(of_stages(root)), lambda: made(of_every(root)))
    if one is None and (name, part) == (BASE, "policies"):
        raise RunError(f"{words}: {IS_BASE}")
    if one is None and name is not None and (step := saved_step(root, name, part)):
        return step.folder
    if one is None:
        known = "" if name is None else f" {name!r} {nearest(name, {each.stage for each in made(of_every(root))})}"
        raise RunError(f"no finished stage of {path!r} made a {what}{known}")
    if "path" not in one.spec:
        raise RunError(f"{words}: is a {one.spec.get('use')}, and only a saved {what} can be opened elsewhere")
    if one.spec["path"] is None:
        raise RunError(f"{words}: {IS_BASE}")
    return root / str(one.spec["path"]).removeprefix(MARK)


def of_stages(root: Path) -> list[Path]:
    """The results of a recipe's stages, in its order; of a session's parts, in the order that they finished."""
    found = sorted(root.glob(f"*/{RESULT}"))
    parts = [file for file in found if (file.parent / CALL).exists()]
    of_recipe = [file for file in found if file not in parts and file.match(f"[0-9][0-9]-*/{RESULT}")]
    return of_recipe or sorted(parts, key=lambda file: file.stat().st_mtime_ns)


def of_every(root: Path) -> list[Path]:
    """The results of stages and of their parts, each part before its stage."""
    stages = of_stages(root)
    found = [file for file in root.rglob(RESULT) if file in stages or (file.parent / CALL).exists()]
    return sorted(found, key=lambda file: (*file.parent.parts, LAST))


def _result(file: Path, part: Part) -> StageResult:
    """The result of a stage, read as far as it is needed here."""
    try:
        result = json.loads(file.read_bytes())
        own: dict[str, Any] = {part: {**result[part]}}
        return StageResult(**own, name=result["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is not the result of a stage: {error}") from error
