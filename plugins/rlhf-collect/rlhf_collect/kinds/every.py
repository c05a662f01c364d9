"""The kinds by name."""

from __future__ import annotations

from difflib import get_close_matches

from rlhf_collect.kinds.base import Kind
from rlhf_collect.kinds.pair import Pair
from rlhf_plugins import DataError

KINDS: dict[str, Kind] = {kind.name: kind for kind in (Pair(),)}


def kind_of(name: str) -> Kind:
    """Raises DataError naming the nearest."""
    if name not in KINDS:
        near = get_close_matches(name, KINDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(f"unknown kind {name!r} ({hint}known: {', '.join(KINDS)})")
    return KINDS[name]
