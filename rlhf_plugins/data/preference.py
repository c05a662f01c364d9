"""Preference rows become groups. It knows TRL's columns and what makes a row useless, not where rows come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from rlhf_plugins.contract.rows import Comparison, Data, Group, Text
from rlhf_plugins.data.convert import soft_label
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import annotator, blank, extras, form, number, optional, probability, required, text
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.sources import PairColumns, Sources
from rlhf_plugins.data.splits import Placed, load
from rlhf_plugins.errors import DataError, known


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
    for where, fields in rows:
        group = _group(where, fields, dropped, columns)
        if group is not None:
            yield where, group


def _group(where: str, fields: dict[str, Any], dropped: Dropped, columns: PairColumns) -> Group | None:
    names = (columns.chosen, columns.rejected)
    given = [required(where, name, fields) for name in names]
    chosen, rejected = (text(where, name, value) for name, value in zip(names, given, strict=True))
    implicit = columns.prompt == "prompt" and "prompt" not in fields
    prompt = None if implicit else text(where, columns.prompt, required(where, columns.prompt, fields))
    margin = number(where, str(columns.margin), optional(where, "margin", columns.margin, fields))
    more = extras(where, fields, columns)
    if form(chosen) != form(rejected):
        raise DataError(f"{where}: {names[0]} is {form(chosen)}, {names[1]} is {form(rejected)}")
    if prompt is not None and form(prompt) != form(chosen):
        raise DataError(f"{where}: {columns.prompt} is {form(prompt)}, {names[0]} is {form(chosen)}")
    if chosen == rejected:
        dropped.add("chosen equals rejected", where)
        return None
    if prompt is None and not blank(chosen) and not blank(rejected):
        prompt, chosen, rejected = _split_prompt(where, fields, chosen, rejected)
    if prompt is None or any(map(blank, (prompt, chosen, rejected))):
        dropped.add("empty prompt or response", where)
        return None
    judged = _comparison(where, fields, columns, margin, more["weight"])
    ranks = (0, 0) if judged.tied else (judged.better, judged.worse)
    plain = judged.probability is None and judged.annotator is None
    return Group(prompt, (chosen, rejected), ranks, margin, compared=None if plain else (judged,), **more)


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


def _split_prompt(where: str, fields: dict[str, Any], chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """The implicit prompt: what chosen and rejected share at their start, in whole messages or whole words.

    As with TRL a space before the first different word belongs to the responses; a line break belongs to the prompt.
    """
    pairs = zip(chosen, rejected, strict=False)
    length = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    if isinstance(chosen, str):
        length = max(chosen.rfind(" ", 0, length), chosen.rfind("\n", 0, length) + 1)
    elif length == min(len(chosen), len(rejected)):
        length -= 1
    if length <= 0:
        lacks = f"has no `prompt` {known('prompt', fields)}"
        raise DataError(f"{where}: {lacks}, and chosen and rejected share no beginning that could be one")
    return chosen[:length], chosen[length:], rejected[length:]
