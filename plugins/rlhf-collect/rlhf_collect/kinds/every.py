"""The kinds by name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from rlhf_collect.kinds.base import Kind
from rlhf_collect.kinds.pair import Pair
from rlhf_collect.kinds.ranking import Ranking
from rlhf_collect.kinds.rating import Rating
from rlhf_plugins import DataError

KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Pair, Ranking, Rating)}


def kind_of(name: str, dimensions: Sequence[str] = ()) -> Kind:
    """The kind of that name; only ratings have dimensions. Raises DataError naming the nearest."""
    if name not in KINDS:
        near = get_close_matches(name, KINDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(f"unknown kind {name!r} ({hint}known: {', '.join(KINDS)})")
    if dimensions and name != Rating.name:
        raise DataError(f"a {name} has no dimensions; only a {Rating.name} has")
    return Rating(dimensions) if dimensions else KINDS[name]()
