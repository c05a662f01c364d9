"""Paths that a recipe names: relative to its folder, and absolute once they are found."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rlhf_plugins.contract.on_disk import OnDisk

SURELY = re.compile(r"\.{1,2}/.*|.*\.(jsonl?|csv|tsv|parquet|arrow|gz|zst|ya?ml|py|txt|md)")  # no name on the hub


def located(value: str, mark: OnDisk, folder: Path | None) -> str:
    """The value as an absolute path where it names a file or a folder, else as it is.

    Args:
        value: a path, or a word or a name that is none.
        mark: how paths are written in this option.
        folder: the folder that a relative path starts from; None is the working directory.

    Raises:
        ValueError: it is there from the working directory alone, and not from the folder.
    """
    if not value or value in mark.words:
        return value
    if os.path.isabs(whole := os.path.expanduser(value)):
        return whole
    name, more = _apart(value, mark.until, folder)
    if mark.until == ":" and more and not name.endswith(".py"):  # PACKAGE.MODULE:FUNCTION
        return value
    there = os.path.join(folder or "", name)
    if os.path.exists(there):
        return os.path.abspath(there) + more
    if os.path.exists(name):
        nearer = os.path.relpath(name, folder)
        raise ValueError(f"{name!r} is not in the recipe's folder, from which its paths start: write {nearer + more!r}")
    elsewhere = folder not in (None, Path()) and SURELY.fullmatch(name)
    return os.path.abspath(there) + more if elsewhere else value


def _apart(value: str, until: str, folder: Path | None) -> tuple[str, str]:
    """The path, and what follows it."""
    if not until or until not in value or os.path.exists(os.path.join(folder or "", value)):
        return value, ""
    path, mark, more = value.rpartition(until)
    return path, mark + more
