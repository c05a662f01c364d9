"""A saved model that another run handed on, `runs/a` or `runs/a#dpo`, found in its files; it loads no model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rlhf_plugins.contract.run import MARK
from rlhf_plugins.data.digests import RECIPE, RESULT, STATUS
from rlhf_plugins.errors import RunError, nearest

Part = Literal["policies", "rewards"]
_WORDS: Mapping[Part, str] = {"policies": "policy", "rewards": "reward model"}
_Names = tuple[str, str, str]  # what its stage called it, the stage, and both


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return os.path.isfile(folder / RECIPE) and os.path.isfile(folder / STATUS)  # False for a name that is too long


def bases_beside(path: str, start: Path = Path()) -> list[str]:  # noqa: B008 (the working directory)
    """The runs, models and adapters in the folder of a path, which begins at `start`, written as the path is."""
    files, folder = ("config.json", "adapter_config.json"), os.path.dirname(path)
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
    """The folder of a saved model: a folder itself, a run (its latest), or `RUN#STAGE`.

    Raises:
        RunError: there is none.
    """
    path, _, name = (words, "", "") if "#" not in words or Path(words).exists() else words.rpartition("#")
    root, what = Path(path), _WORDS[part]
    if not root.is_dir():
        near = [str(each) for each in root.parent.glob("*") if is_run(each)]
        raise RunError(f"there is no folder {path!r} {nearest(path, near)}")
    if not is_run(root):
        if name:
            raise RunError(f"{path!r} is no run, so it has no stage {name!r}")
        return root
    made = _made(root, part)
    if not made:
        raise RunError(f"no finished stage of {path!r} made a {what}")
    fits = [one for one in made if not name or name in one]
    if not fits:
        names = {stage: None for _, stage, _ in made}
        raise RunError(f"no finished stage of {path!r} made a {what} {name!r} {nearest(name, names)}")
    spec = made[fits[-1]]
    if "path" not in spec:
        raise RunError(f"{words}: is a {spec.get('use')}, and only a saved {what} can be opened elsewhere")
    if spec["path"] is None:
        raise RunError(f"{words}: is the base of that run, so write that one")
    return root / str(spec["path"]).removeprefix(MARK)


def _made(root: Path, part: Part) -> dict[_Names, Mapping[str, Any]]:
    """What a run handed on, in order; of its parts first, then of the recipe's own stages."""
    found: dict[_Names, Mapping[str, Any]] = {}
    files = sorted(root.rglob(RESULT), key=lambda file: (file.parent.parent == root, file.parts))
    for file in files:
        try:
            result = json.loads(file.read_bytes())
            stage, made = result["name"], result[part].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{file} is not the result of a stage: {error}") from error
        found |= {(name, stage, f"{stage}/{name}"): spec for name, spec in made}
    return found
