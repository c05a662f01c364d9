"""Ratings in the shapes of known data sets: HelpSteer and HelpSteer2, UltraFeedback as it was published, and lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.listed import HELPSTEER, as_rating
from rlhf_plugins.data.formats.shapes import as_named
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.sources import Dimensions, RatingColumns, score

ULTRAFEEDBACK = ("helpfulness", "honesty", "instruction_following", "truthfulness")


@dataclass(frozen=True)
class Shape:
    """How a known set is read: its ratings by path, and the dimensions that say which response is better."""

    name: str
    dimensions: dict[str, str]
    by: tuple[str, ...]


HELPSTEER_SHAPE = Shape("ratings of HelpSteer", {name: name for name in HELPSTEER}, ("helpfulness",))
ULTRAFEEDBACK_SHAPE = Shape(
    "ratings of UltraFeedback", {name: f"annotations.{name}.Rating" for name in ULTRAFEEDBACK}, ULTRAFEEDBACK
)


def shape_of(fields: Mapping[str, Any]) -> Shape | None:
    """The known set that a row is of."""
    listed = fields.get("completions")
    if "instruction" in fields and isinstance(listed, list) and listed and isinstance(listed[0], Mapping):
        return ULTRAFEEDBACK_SHAPE if {"response", "annotations"} <= listed[0].keys() else None
    helpful = {"prompt", "response", *HELPSTEER} <= fields.keys() and "score" not in fields
    return HELPSTEER_SHAPE if helpful else None


def shaped(
    rows: Iterable[Row], dropped: Dropped, columns: RatingColumns, dimensions: Dimensions
) -> tuple[Iterator[Row], Shape | None]:
    """The rows with the columns of the format, and the known set that the first of them is of.

    None where the recipe names dimensions or renames a column.
    """
    rest = iter(rows)
    first = next(rest, None)
    if first is None:
        return rest, None
    usual = dimensions == score() and as_named(columns, ("prompt", "response", "responses", "text"))
    shape = shape_of(first[1]) if usual else None
    whole = chain([first], rest)
    if shape is not None:
        return _renamed(whole, dropped, shape), shape
    return (_lists(whole, dropped) if usual else whole), None


def _lists(rows: Iterable[Row], dropped: Dropped) -> Iterator[Row]:
    for where, fields in rows:
        found = as_rating(fields)
        if found is not None:
            dropped.note_shape("a list of answers with scores")
        yield where, found or fields


def _renamed(rows: Iterable[Row], dropped: Dropped, shape: Shape) -> Iterator[Row]:
    for where, fields in rows:
        dropped.note_shape(shape.name)
        if shape is HELPSTEER_SHAPE:
            yield where, fields
            continue
        rest = {name: value for name, value in fields.items() if name not in ("instruction", "completions")}
        answers = [{**answer, "text": answer.get("response")} for answer in fields.get("completions") or ()]
        yield where, {**rest, "prompt": fields.get("instruction"), "responses": answers}
