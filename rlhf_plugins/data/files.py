"""Files that are never half written. It knows bytes, not what they mean."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


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
