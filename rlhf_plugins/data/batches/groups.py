"""Groups become the columns that TRL's trainers read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset

from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.data.convert import pairs
from rlhf_plugins.data.turns import CALLS, TOOLS, without_nulls
from rlhf_plugins.data.values import by_name, plain
from rlhf_plugins.errors import DataError

__all__ = [
    "batch_columns",
    "batch_prompts",
    "best_response",
    "labels",
    "pair_rows",
    "pairs",
    "prompt_dataset",
]

Row = dict[str, Any]
COLUMNS = "rlhf_columns"  # of a data set of prompts: those of the prompt, as JSON


def pair_rows(groups: Iterable[Group]) -> list[Row]:
    """Pairs with TRL's columns `prompt`, `chosen`, `rejected`, and where any row has one `margin` and `probability`.

    A row without a margin then has 0, and a row without a soft label 1.

    Raises:
        DataError: no group holds a strictly ordered pair.
    """
    rows = [_row(pair) for pair in pairs(groups)]
    if not rows:
        raise DataError("no pair of responses is strictly ordered: there is nothing to learn from")
    for name, default in (("margin", 0.0), ("probability", 1.0)):
        known = [row.pop(name) for row in rows]
        if any(value is not None for value in known):
            for row, value in zip(rows, known, strict=True):
                row[name] = default if value is None else value
    return rows


def labels(group: Group) -> list[tuple[Text, bool]]:
    """The responses of a group that have a label, or are better or worse than another; each once with each label."""
    if group.label is not None:
        return [(response, group.label) for response in group.responses]
    strict = [c for c in group.comparisons if not c.tied]
    places = dict.fromkeys((place, good) for c in strict for place, good in ((c.better, True), (c.worse, False)))
    return [(group.responses[place], good) for place, good in places]


def prompt_dataset(prompts: Iterable[Group]) -> Dataset:
    """Prompts with TRL's column `prompt`, and where any has columns, these as JSON in `COLUMNS`.

    A table would need one type for each column, and for each argument of the tools in messages, which are JSON too;
    `batch_columns` and `batch_prompts` read them.

    Raises:
        DataError: there is no prompt.
    """
    groups = list(prompts)
    if not groups:
        raise DataError("there are no prompts to generate from")
    rows: list[Row] = [{"prompt": _of_tools(group.prompt, list | dict, _json)} for group in groups]
    if any(group.columns for group in groups):
        for row, group in zip(rows, groups, strict=True):
            row[COLUMNS] = _json(dict(group.columns))
    return Dataset.from_list(rows)


def batch_prompts(rows: Sequence[Mapping[str, Any]]) -> list[Text]:
    """The prompts of rows of a `prompt_dataset`, or of a script's, without the fields that a table adds."""
    return [_of_tools(without_nulls(row["prompt"]), str, json.loads) for row in rows]


def batch_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns of rows of a `prompt_dataset`, a value for each row; None where a row lacks one."""
    return by_name([json.loads(row[COLUMNS]) if row.get(COLUMNS) else {} for row in rows])


def _of_tools(prompt: Text, kind: Any, change: Callable[[Any], Any]) -> Text:
    """The prompt with the tools and calls in its messages changed, where they are of a kind."""
    if isinstance(prompt, str):
        return prompt
    return [
        {
            name: change(value) if name in (TOOLS, CALLS) and isinstance(value, kind) else value
            for name, value in m.items()
        }
        for m in prompt
    ]


def _json(value: Any) -> str:
    return json.dumps(value, default=plain)


def best_response(group: Group) -> Text | None:
    """The one that is better in most comparisons, less those in which it is worse; the first of equals.

    None where the group has no response, or one that is labelled undesirable.
    """
    return group.responses[_best(group)] if group.responses and group.label is not False else None


def _best(group: Group) -> int:
    won = [0] * len(group.responses)
    for comparison in group.comparisons:
        if not comparison.tied:
            won[comparison.better] += 1
            won[comparison.worse] -= 1
    return won.index(max(won))


def _row(pair: Group) -> Row:
    (comparison,) = pair.comparisons
    texts = {"prompt": pair.prompt, "chosen": pair.responses[0], "rejected": pair.responses[1]}
    return {**texts, "margin": comparison.margin, "probability": comparison.probability}
