"""Values of the columns of rows, of any type. It knows no column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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
