"""Whether two runs left the same: every file, and every number but times and memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_plugins.data.digests import STATUS
from rlhf_plugins.data.files import read_json
from rlhf_plugins.run.folder import LOCK

MEASURED = {"seconds", "peak_bytes", "started", "finished", "hardware", "platform"}  # keys that differ anyhow
LEFT_OUT = {LOCK, STATUS, "report.html"}  # the last is made of report.json
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
            yield from (f"{name}: {what}" for what in _first(read_json(old[name]), read_json(new[name])))
        elif old[name].read_bytes() != new[name].read_bytes():
            yield f"{name} differs"


def _files(folder: Path) -> dict[str, Path]:
    every = (file for file in folder.rglob("*") if file.is_file() and not file.name.endswith(CACHES))
    return {file.relative_to(folder).as_posix(): file for file in every if file.name not in LEFT_OUT}


def _first(old: Any, new: Any, where: str = "") -> list[str]:
    """The first difference of two values of JSON, as `a.b[1] is 1, and was 2`; empty where there is none."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in sorted({*old, *new}) if key not in MEASURED]
        parts = [(f"{where}.{key}".lstrip("."), old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = [(f"{where}[{i}]", old[i], new[i]) for i in range(len(old))]
    else:
        return [] if _timeless(old) == _timeless(new) else [f"{where} is {_shown(new)}, and was {_shown(old)}"]
    return next((found for at, was, now in parts if (found := _first(was, now, at))), [])


def _timeless(value: Any) -> Any:
    return SECONDS.sub("_ s", value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else f"{text[:40]}..."
