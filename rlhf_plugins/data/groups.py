"""Groups become the columns that TRL's trainers read. It knows records and columns, not where groups come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

from datasets import Dataset

from rlhf_plugins.errors import DataError
from rlhf_plugins.interfaces import Group, Text

Row = dict[str, Any]


def pairs(groups: Iterable[Group]) -> Iterator[Group]:
    """Every strictly ordered pair of responses as a group of two, the better first; ties give no pair."""
    for group in groups:
        if group.ranks is None:
            continue
        for i, j in combinations(range(len(group.responses)), 2):
            if group.ranks[i] != group.ranks[j]:
                best, worst = (i, j) if group.ranks[i] < group.ranks[j] else (j, i)
                yield _pick(group, best, worst)


def preference_dataset(groups: Iterable[Group]) -> Dataset:
    """Pairs with TRL's columns `prompt`, `chosen`, `rejected` and, where any row has one, `margin` (0 where not).

    Raises:
        DataError: no group holds a strictly ordered pair.
    """
    rows = [_row(pair) for pair in pairs(groups)]
    if not rows:
        raise DataError("no pair of responses is strictly ordered: there is nothing to learn from")
    if all(row["margin"] is None for row in rows):
        return Dataset.from_list([{k: v for k, v in row.items() if k != "margin"} for row in rows])
    return Dataset.from_list([{**row, "margin": row["margin"] or 0.0} for row in rows])


def prompt_dataset(prompts: Iterable[Text]) -> Dataset:
    """Prompts with TRL's column `prompt`. Raises DataError when there is none."""
    rows = [{"prompt": prompt} for prompt in prompts]
    if not rows:
        raise DataError("there are no prompts to generate from")
    return Dataset.from_list(rows)


def best_responses(groups: Iterable[Group]) -> Dataset:
    """Each group's best response with TRL's columns `prompt`, `completion`, for supervised fine-tuning.

    Raises:
        DataError: there is no group.
    """
    rows = [{"prompt": g.prompt, "completion": g.responses[_best(g)]} for g in groups]
    if not rows:
        raise DataError("there are no responses to imitate")
    return Dataset.from_list(rows)


def _best(group: Group) -> int:
    return 0 if group.ranks is None else group.ranks.index(min(group.ranks))


def _pick(group: Group, best: int, worst: int) -> Group:
    gold = (group.gold[best], group.gold[worst]) if group.gold else None
    return Group(group.prompt, (group.responses[best], group.responses[worst]), (0, 1), group.margin, gold)


def _row(pair: Group) -> Row:
    return {"prompt": pair.prompt, "chosen": pair.responses[0], "rejected": pair.responses[1], "margin": pair.margin}
