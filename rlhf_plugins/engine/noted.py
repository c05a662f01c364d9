"""A base's path as a description beside a saved model holds it: one inside the same run moves with the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rlhf_plugins.contract.run import Adapter, Base

MARKS = ("recipe.yaml", "status.json")  # a folder with both is a run's


def path_to_note(path: str, folder: Path, root: Path | None = None) -> str:
    """The path to write: relative to the folder inside the run, absolute for a folder elsewhere; a hub name as it is.

    Args:
        path: of the base.
        folder: of the saved model.
        root: of its run; None finds it above the folder.
    """
    whole, here = Path(path).resolve(), folder.resolve()
    run = root.resolve() if root else next((above for above in here.parents if _is_run(above)), None)
    return os.path.relpath(whole, here) if run and whole.is_relative_to(run) else whole_path(path)


def noted_path(path: str, folder: Path) -> str:
    """The inverse of `path_to_note`, wherever the folder is now."""
    return os.path.normpath(folder / path) if path.startswith("..") else path


def whole_path(path: str) -> str:
    """A folder's path from the root of the file system, so that it is found from anywhere; a hub name as it is."""
    return os.path.abspath(path) if os.path.isdir(path) else path


def noted_base(noted: Any, folder: Path, trust_remote_code: bool) -> Base:
    """The base in a description. Raises ValueError, TypeError, KeyError or AttributeError where it is damaged."""
    path, quantization, adapter = noted["path"], noted.get("quantization"), noted.get("adapter")
    if not isinstance(path, str) or not path:
        raise ValueError(f"base.path should be text, got {path!r}")
    if quantization is not None and not isinstance(quantization, str):
        raise ValueError(f"base.quantization should be text, got {quantization!r}")
    return Base(noted_path(path, folder), quantization, adapter and Adapter(**adapter), trust_remote_code)


def _is_run(folder: Path) -> bool:
    return all((folder / mark).is_file() for mark in MARKS)
