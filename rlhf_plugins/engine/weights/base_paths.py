"""The path of a base beside a saved model: one in the same run or in this package moves with it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_plugins.contract.run import Adapter, Base, Chat

PACKAGE = Path(__file__).parents[2]  # which holds the base of the sandbox
OURS = f"{PACKAGE.name}:"


def path_to_note(path: str, folder: Path, root: Path | None = None) -> str:
    """The path to write: relative to the folder inside the run, absolute for a folder elsewhere; a hub name as it is.

    A base in this package is noted as `rlhf_plugins:sandbox/policy`, wherever that is installed.

    Args:
        path: the path of the base.
        folder: the folder of the saved model.
        root: the root of its run; None finds it above the folder.
    """
    from rlhf_plugins.data.saved_steps import is_run

    if not os.path.isdir(path):
        return path
    whole, here = Path(path).resolve(), folder.resolve()
    if whole.is_relative_to(PACKAGE.resolve()):
        return OURS + whole.relative_to(PACKAGE.resolve()).as_posix()
    run = root.resolve() if root else next((above for above in here.parents if is_run(above)), None)
    if run is None or not whole.is_relative_to(run):
        return str(whole)
    beside = os.path.relpath(whole, here)
    return beside if beside.startswith("..") else f"./{beside}"  # without a dot it would be a name of the hub


def noted_path(path: str, folder: Path) -> str:
    """The inverse of `path_to_note`, wherever the folder is now."""
    if path.startswith(OURS):
        return str(PACKAGE / path.removeprefix(OURS))
    return os.path.normpath(folder / path) if path.partition("/")[0] in (".", "..") else path


def whole_path(path: str) -> str:
    """A folder's path from the root of the file system, so that it is found from anywhere; a hub name as it is."""
    return os.path.abspath(path) if os.path.isdir(path) else path


def same_base(one: Base, other: Base) -> bool:
    """Whether an adapter on one of them fits the other: the weights and the quantization are the same."""
    same = whole_path(one.path) == whole_path(other.path)
    return same and one.quantization == other.quantization


def described(base: Base) -> dict[str, Any]:
    """What is noted of a base beside a saved model: not what only a run, or only its user, may decide."""
    return {name: value for name, value in asdict(base).items() if name not in ("trust_remote_code", "lengths")}


def noted_base(noted: Any, folder: Path, trust_remote_code: bool) -> Base:
    """The base in a description. Raises ValueError, TypeError, KeyError or AttributeError where it is damaged."""
    path, quantization, adapter = noted["path"], noted.get("quantization"), noted.get("adapter")
    chat = noted.get("chat")
    if not isinstance(path, str) or not path:
        raise ValueError(f"base.path should be text, got {path!r}")
    if quantization is not None and not isinstance(quantization, str):
        raise ValueError(f"base.quantization should be text, got {quantization!r}")
    given = adapter and Adapter(**adapter), trust_remote_code, None if chat is None else Chat(**chat)
    return Base(noted_path(path, folder), quantization, *given)
