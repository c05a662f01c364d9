"""A recipe's text written to a file that was not there; nothing is written over."""

from __future__ import annotations

from pathlib import Path

from rlhf_plugins.errors import RunError


def write_new(file: Path, text: str) -> None:
    """Raises RunError where the file exists or cannot be written."""
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise RunError(f"{file}: exists; name another file") from None
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror}") from error
