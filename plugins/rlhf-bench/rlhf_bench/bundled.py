"""The suites that come with the package."""

from __future__ import annotations

from pathlib import Path

from rlhf_plugins import RunError, nearest

SPLIT = Path(__file__).parent / "split.yaml"  # the tasks of the suite `selection` to learn from, and those held out


def find(suite: str) -> Path:
    """The file of a suite, given as a path or as the name of a bundled one. Raises RunError where there is neither."""
    if Path(suite).is_file():
        return Path(suite)
    bundled = {file.stem: file for file in (Path(__file__).parent / "suites").glob("*.yaml")}
    if suite not in bundled:
        raise RunError(f"{suite}: no such file, nor a bundled suite of that name {nearest(suite, bundled)}")
    return bundled[suite]
