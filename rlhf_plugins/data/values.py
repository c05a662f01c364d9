"""Values of the columns of rows, of any type."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

MESSAGES = re.compile(r"\s*\[?\s*\{\s*[\"'](role|content|from|value)[\"']\s*:")
CELL = re.compile(rf"\s*\[\s*[\"'{{\]n]|{MESSAGES.pattern}")  # how a list of texts or objects, or a message begins
SPOKEN = {"role", "from"}  # a message has one of them


def by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns of rows, a value for each row; None where a row lacks one."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def plain(value: Any) -> Any:
    """A value that JSON has no form for: arrays and their numbers as lists and numbers, anything else as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return dict(value) if isinstance(value, Mapping) else str(value)


def all_texts(value: Any) -> bool:
    """Whether it is a list of texts, of which some may be missing."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) or one is None for one in value)


def spelled(text: str) -> Any:
    """The list of texts or objects, or the message, that a text spells as JSON or Python; None where it spells none."""
    if not CELL.match(text):
        return None
    try:
        value = json.loads(text)
    except RecursionError:
        return None
    except ValueError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if isinstance(value, dict):
        return value if value.keys() & SPOKEN else None
    listed = isinstance(value, list) and all(isinstance(one, dict) for one in value)
    return value if listed or all_texts(value) else None
