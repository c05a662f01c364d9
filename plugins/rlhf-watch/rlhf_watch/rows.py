"""Reads a file of JSON lines; an error names the file and the line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rlhf_plugins import DataError, nearest_path

Parsed = TypeVar("Parsed")


def lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """`FILE:NUMBER` and text of each line that is not empty. Raises DataError where the file cannot be read."""
    if not file.exists():
        raise DataError(f"{file}: no such file{nearest_path(file)}")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at U+2028, which JSON strings may hold
        if line.strip():
            yield f"{file}:{number}", line


def parsed(file: Path, parse: Callable[[Any], Parsed], needs: str) -> Iterator[Parsed]:
    """Each row as `parse` returns it; empty lines are skipped.

    Args:
        file: JSON lines in UTF-8.
        parse: reads one row; a DataError of its own is shown behind the line.
        needs: the sentence where it fails otherwise.

    Raises:
        DataError: the file cannot be read, or a row cannot be parsed.
    """
    for where, line in lines_of(file):
        try:
            found = parse(json.loads(line))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{where}: {needs}") from error
        yield found
