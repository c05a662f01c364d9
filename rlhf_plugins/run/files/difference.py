"""The first difference of two nested values of JSON, in words."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

LONGEST = 100  # characters of a list or a mapping that are shown


def difference(
    old: Any, new: Any, may_differ: Collection[str] = (), path: str = "", digested: Collection[str] = ()
) -> str:
    """The first difference, `loss was 1 and is now 2`; empty where all but the top keys that may differ is equal.

    Old paths that are `digested` are compared by their last names: their files may have been moved, and the caller
    compares digests.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if path or name not in may_differ]
        pairs = [(name, old.get(name), new.get(name)) for name in names]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(index), *pair) for index, pair in enumerate(zip(old, new, strict=True))]
    else:
        return "" if old == new or _moved(old, new, digested) else f"{path} was {_shown(old)} and is now {_shown(new)}"
    found = (difference(a, b, may_differ, f"{path}.{name}".lstrip("."), digested) for name, a, b in pairs)
    return next(filter(None, found), "")


def _shown(value: Any) -> str:
    """Lists and mappings by their beginning."""
    text = repr(value)
    return f"{text[:LONGEST]}..." if isinstance(value, list | dict) and len(text) > LONGEST else text


def _moved(old: Any, new: Any, digested: Collection[str]) -> bool:
    """Whether two paths may be of one file that was moved."""
    if not isinstance(old, str) or not isinstance(new, str) or not os.path.isabs(new):
        return False
    return old in digested and os.path.basename(old) == os.path.basename(new)
