"""Whether two runs left the same: every file, and every number but times and memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_plugins.data.file_names import STATUS
from rlhf_plugins.data.files import read_json
from rlhf_plugins.report.files import PAGE
from rlhf_plugins.run.files.difference import difference
from rlhf_plugins.run.files.folder import LOCK

MEASURED = {"seconds", "peak_bytes", "started", "finished", "hardware", "platform"}  # keys that differ anyhow
LEFT_OUT = {LOCK, STATUS, PAGE}  # the last is made of report.json
CACHES = (".sqlite", ".sqlite-shm", ".sqlite-wal")
SECONDS = re.compile(r"\b\d+(\.\d+)? s\b")  # in a note


def differences(one: Path, two: Path) -> list[str]:
    """What the second of two runs of one recipe left otherwise than the first, a sentence for each file."""
    return [*_differences(_files(one), _files(two))]


def _differences(old: dict[str, Path], new: dict[str, Path]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield f"{name} is missing"
        elif name not in old:
            yield f"{name} is there too"
        elif name.endswith(".json"):
            if what := difference(*(_timeless(read_json(files[name])) for files in (old, new))):
                yield f"{name}: {what}"
        elif old[name].read_bytes() != new[name].read_bytes():
            yield f"{name} differs"


def _files(folder: Path) -> dict[str, Path]:
    every = (file for file in folder.rglob("*") if file.is_file() and not file.name.endswith(CACHES))
    return {file.relative_to(folder).as_posix(): file for file in every if file.name not in LEFT_OUT}


def _timeless(value: Any) -> Any:
    """Without what is measured, and with the seconds of notes as `_`."""
    if isinstance(value, dict):
        return {name: _timeless(part) for name, part in value.items() if name not in MEASURED}
    if isinstance(value, list):
        return list(map(_timeless, value))
    return SECONDS.sub("_ s", value) if isinstance(value, str) else value
