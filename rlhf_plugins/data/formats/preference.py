"""Preference rows become groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.convert import soft_label
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import annotator, blank, extras, key, number, optional, probability, responses
from rlhf_plugins.data.formats.shapes import Pair, shaped_pairs
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.sources import PairColumns
from rlhf_plugins.data.splits import Placed
from rlhf_plugins.data.values import all_texts
from rlhf_plugins.errors import DataError


def read_pairs(rows: Iterable[Row], dropped: Dropped, columns: PairColumns = PairColumns()) -> Iterator[Placed]:  # noqa: B008
    """Pairs with the columns `chosen`, `rejected` and, optionally, the others of `PairColumns`.

    A `probability` below 1/2 makes the rejected response the better one, and 1/2 a tie. A row whose responses are
    equal or empty is left out and counted.

    Raises:
        DataError: a column is missing or holds a value of the wrong type, a row has a margin and a probability
            below 1/2, or lists of responses a margin, a probability or an annotator.
    """
    for pair in shaped_pairs(rows, dropped, columns):
        with dropped.row(pair.where):
            group = _group(pair, dropped, columns)
            if group is not None:
                yield pair.where, group


def _group(pair: Pair, dropped: Dropped, columns: PairColumns) -> Group | None:
    where, fields, (prompt, chosen, rejected) = pair.where, pair.fields, pair.texts
    more = extras(where, fields, columns, pair.read)
    if all_texts(chosen) or all_texts(rejected):
        return _right_and_wrong(pair, dropped, columns, more)
    if chosen == rejected:
        dropped.add("chosen equals rejected", where)
        return None
    if prompt is None or any(map(blank, (prompt, chosen, rejected))):
        dropped.add("empty prompt or response", where)
        return None
    margin = number(where, str(columns.margin), optional(where, "margin", columns.margin, fields))
    judged = _comparison(where, fields, columns, margin, more["weight"])
    ranks = (0, 0) if judged.tied else (judged.better, judged.worse)
    plain = judged.probability is None and judged.annotator is None
    return Group(prompt, (chosen, rejected), ranks, margin, compared=None if plain else (judged,), **more)


def _right_and_wrong(pair: Pair, dropped: Dropped, columns: PairColumns, more: dict[str, Any]) -> Group | None:
    """Every right response is better than every wrong one; nothing is known of two of a kind."""
    where, (prompt, right, wrong), names = pair.where, pair.texts, f"{columns.chosen} and {columns.rejected}"
    for name in ("margin", "probability", "annotator"):
        column = getattr(columns, name)
        if optional(where, name, column, pair.fields) not in (None, ""):
            raise DataError(f"{where}: {column} is of one pair, and {names} are lists; `columns: {{{name}: null}}`")
    if blank(prompt) or not (right and wrong) or any(one is None or not one.strip() for one in (*right, *wrong)):
        dropped.add("empty prompt or response", where)
        return None
    both = responses(where, names, [*right, *wrong], "text", prompt)
    if len(set(map(key, both))) < len(both):
        dropped.add("a response appears twice", where)
        return None
    pairs = product(range(len(right)), range(len(right), len(both)))
    return Group(prompt, both, compared=tuple(Comparison(i, j, weight=more["weight"]) for i, j in pairs), **more)


def _comparison(
    where: str, fields: Mapping[str, Any], columns: PairColumns, margin: float | None, weight: float
) -> Comparison:
    given = optional(where, "probability", columns.probability, fields)
    likely = probability(where, str(columns.probability), given)
    if likely is not None and likely < 0.5 and margin:
        raise DataError(
            f"{where}: {columns.probability} is {likely:g}, so the rejected response is the better one, and "
            f"{columns.margin} is {margin:g}, by how much the chosen one is; leave out one of the two"
        )
    who = annotator(where, "annotator", columns.annotator, fields)
    return replace(soft_label(1.0 if likely is None else likely, margin, weight), annotator=who)
