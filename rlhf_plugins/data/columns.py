"""Which columns the rows have that a loss or a sampler may need. It reads rows and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rlhf_plugins.contract.rows import Comparison, Data, Group, Samples
from rlhf_plugins.errors import RunError, nearest

MEANING = {  # of each column: what at least one row must have for it to change a training
    "annotator": "the name of an annotator",
    "difficulty": "two difficulties that differ",
    "margin": "a margin other than 0",
    "probability": "a probability (soft label) below 1",
    "ranks": "two responses with ranks, or one that is preferred to another",
    "ratings": "a rating",
    "ties": "a tie",
    "topic": "two topics",
    "votes": "a pair that was compared twice",
    "weight": "a weight other than 1",
}


def of_prompts(samples: Samples, column: str) -> Sequence[Any]:
    """A column of the prompts, a value a response. Raises RunError where they have none of this name."""
    if column not in samples.columns:
        raise RunError(no_column(column, samples.columns))
    return samples.columns[column]


def no_column(column: str, columns: Iterable[str], function: str = "") -> str:
    """Says that prompts with these columns lack one that a reward reads, or a function by its path."""
    cure = f"{function} takes it without a default" if function else "name it in `column`"
    return f"reward: the prompts have no column {column!r} {nearest(column, columns)}; {cure}"


def of_rows(data: Data) -> frozenset[str]:
    """The columns that any prompt or group of the data has, as rewards read them."""
    groups = (*data.train, *data.test, *(group for split in data.prompts.values() for group in split))
    return frozenset(name for group in groups for name in group.columns)


def columns_of(groups: Iterable[Group]) -> frozenset[str]:
    """The columns, by their names in `contract.component.COLUMNS`, that change something in a training on the groups.

    A weight of 1 in every row, one topic or equal difficulties change nothing, so the groups lack that column.
    """
    groups = list(groups)
    compared = [comparison for group in groups for comparison in group.comparisons]
    return frozenset(name for name, found in _FOUND.items() if found(groups, compared))


def negative_margins(compared: Iterable[Comparison]) -> tuple[int, int]:
    """How many comparisons that are no ties have a margin, and how many of these margins are below 0."""
    margins = [c.margin for c in compared if not c.tied and c.margin is not None]
    return len(margins), sum(margin < 0 for margin in margins)


def contradicting(count: int, of: int) -> str:
    """The warning for `count` of `of` negative margins."""
    return (
        f"{count} of {of} margins are negative, which contradicts their labels: a loss that reads margins, which are 0 "
        "or more in the papers, then lets the rejected response score higher"
    )


def lacks(column: str, columns: Iterable[str]) -> str:
    """Says that no row has a column, and which the rows have, to follow the name of the component that needs it."""
    has = ", ".join(sorted(columns)) or "none of those that a component may need"
    return f"needs the column {column!r}, and no row has it ({MEANING.get(column, column)}); the rows have: {has}"


def _differ(values: Iterator[object]) -> bool:
    return len(set(values)) > 1


def _repeated(groups: Sequence[Group]) -> bool:
    pairs = ([frozenset((c.better, c.worse)) for c in group.comparisons] for group in groups)
    return any(len(set(found)) < len(found) for found in pairs)


def _ranked(groups: Sequence[Group]) -> bool:
    """Whether any responses are in an order, by ranks or by a judged pair."""
    placed = (sum(rank is not None for rank in group.ranks or ()) for group in groups)
    return any(count > 1 for count in placed) or any(not c.tied for group in groups for c in group.comparisons)


_FOUND: dict[str, Callable[[Sequence[Group], Sequence[Comparison]], bool]] = {
    "annotator": lambda _, compared: any(c.annotator is not None for c in compared),
    "difficulty": lambda groups, _: _differ(g.difficulty for g in groups if g.difficulty is not None),
    "margin": lambda _, compared: any(c.margin for c in compared),
    "probability": lambda _, compared: any(c.probability not in (None, 1.0) for c in compared),
    "ranks": lambda groups, _: _ranked(groups),
    "ratings": lambda groups, _: any(v is not None for g in groups for values in g.ratings.values() for v in values),
    "ties": lambda _, compared: any(c.tied for c in compared),
    "topic": lambda groups, _: _differ(g.topic for g in groups),
    "votes": lambda groups, _: _repeated(groups),
    "weight": lambda groups, compared: any(c.weight != 1 for c in compared) or any(g.weight != 1 for g in groups),
}
