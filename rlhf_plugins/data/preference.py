"""Preference rows become groups. It knows TRL's columns and what makes a row useless, not where rows come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from rlhf_plugins.contract.rows import Comparison, Data, Group
from rlhf_plugins.data.convert import soft_label
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import annotator, blank, extras, key, number, optional, probability, responses
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.shapes import shaped_pairs
from rlhf_plugins.data.sources import PairColumns, Sources
from rlhf_plugins.data.splits import Placed, load
from rlhf_plugins.errors import DataError


def load_preferences(source: str, split: str, test_source: str | None, test_fraction: float, seed: int) -> Data:
    """Pairs with TRL's columns, prompts held out by hash or by a test source. Raises DataError as `splits.load`."""
    return load(Sources(source, split, test_source, test_fraction), read_pairs, seed)


def read_pairs(rows: Iterable[Row], dropped: Dropped, columns: PairColumns = PairColumns()) -> Iterator[Placed]:  # noqa: B008
    """Pairs with the columns `chosen`, `rejected` and, optionally, the others of `PairColumns`.

    A `probability` below 1/2 makes the rejected response the better one, and 1/2 a tie. A row whose responses are
    equal or empty is left out and counted.

    Raises:
        DataError: a column is missing or holds a value of the wrong type, or a row has a margin and a probability
            below 1/2.
    """
    for where, fields in shaped_pairs(rows, dropped, (columns.prompt, columns.chosen, columns.rejected)):
        group = _group(where, fields, dropped, columns)
        if group is not None:
            yield where, group


def _group(where: str, fields: dict[str, Any], dropped: Dropped, columns: PairColumns) -> Group | None:
    prompt, chosen, rejected = (fields[name] for name in (columns.prompt, columns.chosen, columns.rejected))
    margin = number(where, str(columns.margin), optional(where, "margin", columns.margin, fields))
    more = extras(where, fields, columns)
    if isinstance(chosen, list) and isinstance(chosen[0], str):
        return _right_and_wrong(where, (prompt, chosen, rejected), dropped, more)
    if chosen == rejected:
        dropped.add("chosen equals rejected", where)
        return None
    if prompt is None or any(map(blank, (prompt, chosen, rejected))):
        dropped.add("empty prompt or response", where)
        return None
    judged = _comparison(where, fields, columns, margin, more["weight"])
    ranks = (0, 0) if judged.tied else (judged.better, judged.worse)
    plain = judged.probability is None and judged.annotator is None
    return Group(prompt, (chosen, rejected), ranks, margin, compared=None if plain else (judged,), **more)


def _right_and_wrong(
    where: str, texts: tuple[Any, list[Any], list[Any]], dropped: Dropped, more: dict[str, Any]
) -> Group | None:
    """Every right response is better than every wrong one; nothing is known of two of a kind."""
    prompt, right, wrong = texts
    both = responses(where, "chosen and rejected", [*right, *wrong], "text", prompt)
    if prompt is None or any(map(blank, (prompt, *both))):
        dropped.add("empty prompt or response", where)
        return None
    if len(set(map(key, both))) < len(both):
        dropped.add("a response appears twice", where)
        return None
    pairs = product(range(len(right)), range(len(right), len(both)))
    return Group(prompt, both, compared=tuple(Comparison(i, j, weight=more["weight"]) for i, j in pairs), **more)


def _comparison(
    where: str, fields: dict[str, Any], columns: PairColumns, margin: float | None, weight: float
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
