"""The first difference of two nested values of JSON, in words."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any


def difference(old: Any, new: Any, may_differ: Collection[str] = (), path: str = "") -> str:
    """As `stages.0.loss was 1 and is now 2`; empty where they are equal, but for the top keys that may differ.

    Paths are compared by their last names: what they name may have been moved.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in (*old, *(new.keys() - old.keys())) if path or name not in may_differ]
        pairs = [(name, old.get(name), new.get(name)) for name in names]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(index), *pair) for index, pair in enumerate(zip(old, new, strict=True))]
    else:
        return "" if old == new or _moved(old, new) else f"{path} was {old!r} and is now {new!r}"
    found = (difference(a, b, may_differ, f"{path}.{name}".lstrip(".")) for name, a, b in pairs)
    return next(filter(None, found), "")


def _moved(old: Any, new: Any) -> bool:
    """Whether two paths may be of one file that was moved, or whose older run noted it from its own folder.

    Digests say whether it is the same.
    """
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    return os.path.isabs(new) and os.path.basename(old) == os.path.basename(new)
