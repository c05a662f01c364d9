"""Ranked responses become groups: an order, places, or judgements of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.convert import dense
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import (
    annotator,
    at,
    blank,
    extras,
    key,
    number,
    place,
    probability,
    required,
    responses,
    shown,
)
from rlhf_plugins.data.formats.listed import as_ranking
from rlhf_plugins.data.formats.shapes import as_named, opened_prompt, with_system_cells
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.sources import RankingColumns
from rlhf_plugins.data.splits import Placed
from rlhf_plugins.errors import DataError, nearest

Ranks = tuple[int | None, ...]


def read_rankings(
    rows: Iterable[Row],
    dropped: Dropped,
    columns: RankingColumns = RankingColumns(),  # noqa: B008
) -> Iterator[Placed]:
    """Groups of K >= 2 responses with `ranks`, or `compared` where a row judges pairs.

    A row has `ranking` (every response's number once, best first), `ranks` (a place for each, null for none) or
    `pairwise` judgements; two judgements of one pair that disagree are both left out and counted. Lists of answers with
    a `rank` each, or beside the place of the `best`, are read too.

    Raises:
        DataError: a column is missing, or a ranking names a missing response, repeats one or has the wrong length.
    """
    usual = as_named(columns, ("responses", "text", "ranking", "ranks", "pairwise"))
    for where, given in with_system_cells(rows):
        fields = (as_ranking(given) if usual else None) or given
        if fields is not given:
            dropped.note_shape("a list of answers with ranks, or with the best of them")
        with dropped.row(where):
            group = _group(where, fields, dropped, columns)
            reason = _useless(group)
            if reason:
                dropped.add(reason, where)
            else:
                yield where, group


def _group(where: str, fields: dict[str, Any], dropped: Dropped, columns: RankingColumns) -> Group:
    prompt, taken = opened_prompt(where, fields, columns.prompt)
    elements = required(where, columns.responses, fields)
    found = responses(where, columns.responses, elements, columns.text, prompt)
    more = extras(where, fields, columns, taken)
    choices = [c for c in (columns.ranking, columns.ranks, columns.pairwise) if c and at(fields, c) is not None]
    if len(choices) != 1:
        wanted = [c for c in (columns.ranking, columns.ranks, columns.pairwise) if c]
        has = f"has {' and '.join(choices)}" if choices else f"has none {nearest(wanted[0] if wanted else '', fields)}"
        raise DataError(f"{where}: {has}; a row needs one of {', '.join(wanted)} (`columns` renames, `none` ignores)")
    (column,) = choices
    value, count = at(fields, column), len(found)
    if not isinstance(value, list):
        raise DataError(f"{where}: {column} must be a list, found {shown(value)}")
    if column == columns.pairwise:
        compared = _compared(where, column, value, count, dropped, more["weight"])
        return Group(prompt, found, compared=compared, **more)
    ranks = (
        _from_order(where, column, value, count)
        if column == columns.ranking
        else _from_places(where, column, value, count)
    )
    return Group(prompt, found, ranks, **more)


def _useless(group: Group) -> str | None:
    if blank(group.prompt) or any(map(blank, group.responses)):
        return "empty prompt or response"
    if len({key(response) for response in group.responses}) < len(group.responses):
        return "a response appears twice"
    return None if group.comparisons else "fewer than two responses are compared"


def _right_length(where: str, column: str, value: list[Any], count: int) -> None:
    if len(value) != count:
        raise DataError(f"{where}: {column} has {len(value)} entries for {count} responses")


def _from_order(where: str, column: str, value: list[Any], count: int) -> Ranks:
    order = [place(where, column, number_, count) for number_ in value]
    repeated = next((number_ for number_ in order if order.count(number_) > 1), None)
    if repeated is not None:
        raise DataError(f"{where}: {column} names the response {repeated} twice")
    _right_length(where, column, value, count)
    return tuple(order.index(number_) for number_ in range(count))


def _from_places(where: str, column: str, value: list[Any], count: int) -> Ranks:
    _right_length(where, column, value, count)
    return dense([number(where, f"{column}[{i}]", rank) for i, rank in enumerate(value)])


def _compared(
    where: str, column: str, value: list[Any], count: int, dropped: Dropped, weight: float
) -> tuple[Comparison, ...]:
    first_of: dict[frozenset[int], Comparison] = {}
    disagreed: set[frozenset[int]] = set()
    for number_, judgement in enumerate(value):
        found = _comparison(f"{where}: {column}[{number_}]", judgement, count, weight)
        pair = frozenset((found.better, found.worse))
        first = first_of.setdefault(pair, found)
        if first is found:
            continue
        if first.tied != found.tied or (first.better != found.better and not found.tied):
            disagreed.add(pair)
        dropped.add("a pair is judged again in its row", where)
    return tuple(c for pair, c in first_of.items() if pair not in disagreed)


def _comparison(where: str, judgement: Any, count: int, weight: float) -> Comparison:
    if not isinstance(judgement, dict):
        raise DataError(f"{where} must have i, j and winner, found {shown(judgement)}")
    i, j = (place(where, name, required(where, name, judgement), count) for name in ("i", "j"))
    winner = required(where, "winner", judgement)
    if i == j:
        raise DataError(f"{where} compares the response {i} with itself")
    if winner is not None and (isinstance(winner, bool) or winner not in (i, j)):
        raise DataError(f"{where}: winner is {shown(winner)}, neither {i} nor {j} nor null for a tie")
    better, worse = (i, j) if winner in (None, i) else (j, i)
    margin = number(where, "margin", judgement.get("margin"))
    own = number(where, "weight", judgement.get("weight"), least=0.0)
    likely = probability(where, "probability", judgement.get("probability"))
    if likely is not None and (likely < 0.5 or (winner is None and likely != 0.5)):
        raise DataError(f"{where}: probability {likely:g} is that of the winner, so at least 0.5, and 0.5 of a tie")
    who = annotator(where, "annotator", "annotator", judgement)
    likely = None if likely == 1.0 else likely
    return Comparison(better, worse, winner is None, margin, weight if own is None else own, likely, who)
