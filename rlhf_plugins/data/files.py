"""Writes files whole or not at all, and reads JSON of a limited size."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

MOST = 200_000_000  # bytes of a file of JSON


def put(file: Path, content: bytes | Iterable[bytes]) -> None:
    """Writes a file whole or not at all, also when the machine stops. Raises OSError where it cannot be written."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            stream.writelines([content] if isinstance(content, bytes) else content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def read_json(file: Path) -> Any:
    """What a file of JSON holds. Raises OSError, and ValueError where it is too large or no JSON."""
    if not file.is_file() and file.exists():
        raise ValueError("it is no file")
    with file.open("rb") as stream:
        content = stream.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError(f"it is over {MOST // 1_000_000} MB")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
