"""The kinds of rows that files have: the function that reads each, and the columns that show it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rlhf_plugins.data.convert import compare_ratings
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.battles import BATTLES, NUMBERED, SHP, SUMMARIES
from rlhf_plugins.data.formats.comparisons import read_comparisons
from rlhf_plugins.data.formats.listed import as_ranking, as_rating
from rlhf_plugins.data.formats.preference import read_pairs
from rlhf_plugins.data.formats.rankings import read_rankings
from rlhf_plugins.data.formats.rated_shapes import shape_of, shaped
from rlhf_plugins.data.formats.ratings import read_ratings
from rlhf_plugins.data.formats.supervised import is_answered, is_prompt, read_answers, read_prompts
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.sources import Dimensions, RatingColumns
from rlhf_plugins.data.splits import Placed
from rlhf_plugins.data.turns import PAIRED
from rlhf_plugins.errors import DataError, nearest


def read_rated(
    rows: Iterable[Row],
    dropped: Dropped,
    columns: RatingColumns,
    dimensions: Dimensions,
    gap: float,
    by: list[str] | None,
    margins: bool,
) -> Iterator[Placed]:
    """Rated groups with what their ratings say of each pair. Raises DataError as `read_ratings` does."""
    rows, shape = shaped(rows, dropped, columns, dimensions)
    names, by = (dimensions, by) if shape is None else (shape.dimensions, by or list(shape.by))
    if unknown := [name for name in by or () if name not in names]:
        raise DataError(f"by: unknown dimension {unknown[0]!r} {nearest(unknown[0], names)}")
    for where, group in read_ratings(rows, dropped, columns, names):
        yield where, compare_ratings(group, gap, by or (), margins)


def _is_pair(fields: Mapping[str, Any]) -> bool:
    sides = (("chosen", "rejected"), ("messages", "rejected_response"), *PAIRED)
    return any(set(names) <= fields.keys() for names in sides)


def _is_compared(fields: Mapping[str, Any]) -> bool:
    return any(
        set(names) <= fields.keys() for names in (("response_a", "response_b"), SUMMARIES, SHP, NUMBERED, *BATTLES)
    )


def _is_rated(fields: Mapping[str, Any]) -> bool:
    listed = fields.get("responses")
    several = isinstance(listed, list) and bool(listed) and isinstance(listed[0], dict) and as_ranking(fields) is None
    alone = "response" in fields and "rejected_response" not in fields and not is_answered(fields)
    return alone or several or shape_of(fields) is not None or as_rating(fields) is not None


def _is_ranked(fields: Mapping[str, Any]) -> bool:
    placed = "responses" in fields and not fields.keys().isdisjoint(("ranking", "ranks", "pairwise"))
    return placed or (as_ranking(fields) is not None and as_rating(fields) is None)


READERS: dict[str, Callable[..., Iterable[Placed]]] = {
    "pairs": read_pairs,
    "comparisons": read_comparisons,
    "ratings": read_rated,
    "rankings": read_rankings,
    "answers": read_answers,
    "prompts": read_prompts,
}
RECOGNISERS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "pairs": _is_pair,
    "comparisons": _is_compared,
    "ratings": _is_rated,
    "rankings": _is_ranked,
    "answers": is_answered,
    "prompts": is_prompt,
}
