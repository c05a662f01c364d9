"""The kinds by name."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_collect.kinds.base import Kind
from rlhf_collect.kinds.pair import Pair
from rlhf_collect.kinds.ranking import Ranking
from rlhf_collect.kinds.rating import Rating
from rlhf_plugins import DataError, nearest

KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Pair, Ranking, Rating)}


def kind_of(name: str, dimensions: Sequence[str] = ()) -> Kind:
    """The kind of that name; only ratings have dimensions. Raises DataError naming the nearest."""
    if name not in KINDS:
        raise DataError(f"unknown kind {name!r} {nearest(name, KINDS)}")
    if dimensions and name != Rating.name:
        raise DataError(f"a {name} has no dimensions; only a {Rating.name} has")
    return Rating(dimensions) if dimensions else KINDS[name]()
