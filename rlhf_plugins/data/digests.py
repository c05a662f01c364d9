"""Digests of files: of those that a run reads, and of those that a stage saved."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path

from rlhf_plugins.data.file_names import CALL, FILES, OPTIMIZER, RESULT, REWARD_MODEL
from rlhf_plugins.data.files import read_json
from rlhf_plugins.errors import RunError

DEPTH = 4  # folders from a model up to its stage
LEFT_OUT = ("README.md", RESULT)


def digest(file: Path) -> str:
    """SHA-256 of a file; computed once as long as the file does not change. Raises OSError."""
    state = file.stat()
    return _digest(file, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _digest(file: Path, *state: int) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def of_folder(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder by its path in it, but for checkpoints, parts of their own and links."""
    found: dict[str, str] = {}
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if not _is_apart(here / name)]
        for file in (here / name for name in names if name not in LEFT_OUT and not name.startswith(".")):
            if file.is_file() and not file.is_symlink():
                found[file.relative_to(folder).as_posix()] = digest(file)
    return dict(sorted(found.items()))


def of_reward_models(stage: Path) -> str:
    """One digest of the reward models that a finished stage saved, as its result has them; empty without any."""
    saved = read_json(stage / RESULT).get(FILES, {}) if (stage / RESULT).is_file() else {}
    parts = (".safetensors", REWARD_MODEL)
    found = {name: was for name, was in saved.items() if name.endswith(parts) and name != OPTIMIZER}
    return sha256(json.dumps(found, sort_keys=True).encode()).hexdigest() if found else ""


def of_path(path: str) -> str | None:
    """The digest of a file, or of the names and digests of a folder's files; None where there is neither.

    What `datasets` caches in a folder does not count.
    """
    if os.path.isfile(path):
        return digest(Path(path))
    if not os.path.isdir(path):
        return None
    found = {name: was for name, was in of_folder(Path(path)).items() if not Path(name).name.startswith("cache-")}
    return sha256(json.dumps(found).encode()).hexdigest()


def _is_apart(folder: Path) -> bool:
    return folder.name.startswith("checkpoint") or (folder / CALL).exists()


def of_base(path: str) -> dict[str, str] | None:
    """The digest of every file of a model by its name; None for one of the hub that is not on this machine yet."""
    folder = Path(path) if os.path.isdir(path) else _downloaded(path)
    if folder is None:
        return None
    return {file.name: _named(file) or digest(file) for file in sorted(folder.glob("*")) if _counts(file)}


def _counts(file: Path) -> bool:
    return file.is_file() and file.name not in LEFT_OUT and not file.name.startswith(".")


def _named(file: Path) -> str | None:
    """The digest that the hub's cache has in the name of a large file."""
    real = file.resolve()
    return real.name if real.parent.name == "blobs" and len(real.name) == 64 else None


def _downloaded(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no name of the hub's
        return None
    return Path(found).parent if isinstance(found, str) else None


def changed(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """The first file with another digest, as `a.json has changed`; empty where there is none."""
    for name, was in old.items():
        if name not in new:
            return f"{name} is missing"
        if new[name] != was:
            return f"{name} has changed"
    return ""


def refuse_changed(folder: Path) -> None:
    """Raises RunError where a folder or a file that a stage saved is not as the stage left it.

    One that no stage saved is not judged.
    """
    here = folder.absolute()
    for stage in (here, *here.parents)[: DEPTH + 1]:
        if (stage / RESULT).is_file():
            _compare(stage, here)
            return


def _compare(stage: Path, folder: Path) -> None:
    noted = _noted(stage / RESULT)
    within = folder.relative_to(stage).as_posix()
    own = {name: was for name, was in noted.items() if within == "." or f"{name}/".startswith(f"{within}/")}
    try:
        new = {name: digest(stage / name) for name in own if (stage / name).is_file()}
    except OSError as error:
        raise RunError(f"{folder}: cannot be read: {error.strerror}") from error
    if what := changed(own, new):
        raise RunError(f"{stage / what}: it is not as the stage saved it; delete {stage} and resume to make it again")


def _noted(file: Path) -> dict[str, str]:
    try:
        values = read_json(file)
    except (OSError, ValueError):
        return {}  # whoever reads the result says so
    found = values.get(FILES) if isinstance(values, dict) else None
    return {str(name): str(was) for name, was in found.items()} if isinstance(found, dict) else {}
