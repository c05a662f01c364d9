"""Finds the components of a stage that need a column of the data that no row has, before anything is trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.component import Component
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.data.columns import columns_of, lacks, no_column, of_rows
from rlhf_plugins.data.functions import OfSamples
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.recipe.options import parts_of
from rlhf_plugins.recipe.source import Keys

if TYPE_CHECKING:
    from rlhf_plugins.contract.run_kinds import Reward, Stage

IGNORES = (
    "ignores soft labels, which the column 'probability' gives: use a loss that reads them, such as bradley_terry or "
    "dpo, or leave them out with `columns: {probability: null}`"
)
READS_ROLLOUTS = "reads rollouts, and stage {} makes none, so that it would never raise an alarm: leave it out"
Name = Callable[[Component], str]  # what a recipe calls a component


def unmet(stage: Component, columns: frozenset[str], name: Name) -> Iterator[tuple[Keys, str]]:
    """The components of a stage that need what the rows lack, or ignore soft labels: where each is, and a message."""
    for column in sorted(stage.needs_of() - columns):
        keys, component = _that_needs(stage, column)
        yield keys, f"{component.kind} {name(component)} {lacks(column, columns)}"
    if "probability" in columns:
        for keys, component in _that_ignore_soft_labels(stage):
            yield keys, f"{component.kind} {name(component)} {IGNORES}"


def lacking_columns(stage: Component, columns: frozenset[str]) -> Iterator[tuple[Keys, str]]:
    """The rewards of a stage that read a column which no prompt has: where each is, and a message.

    A `fallback` may never be asked, and a task has rows of its own.
    """
    for keys, reward in _rewards(stage):
        function = reward.path if isinstance(reward, OfSamples) else ""
        lacking = sorted(reward.reads_columns() - columns)
        yield from ((keys, no_column(column, columns, function)) for column in lacking)


def refuse_lacking(stage: Stage, data: Data) -> None:
    """Raises RunError for the first column that a reward of a stage reads and no prompt of its rows has."""
    for _, message in lacking_columns(stage, of_rows(data)) if stage.scores_prompts else ():
        raise RunError(message)


def unscorable(stage: Component, prompts: Iterable[Group]) -> Iterator[tuple[Keys, str]]:
    """The rewards of a stage or a task that fail on all responses to a prompt: where each is, and a message."""
    asked = list(prompts)
    for keys, reward in _rewards(stage):
        try:
            deque(map(reward.can_score, asked), maxlen=0)
        except RunError as error:
            yield keys, str(error)


def _rewards(component: Component) -> Iterator[tuple[Keys, Reward]]:
    """The rewards that score responses to the prompts of a component's own rows, and where each is."""
    for keys, part in parts_of(component):
        if part.kind in ("stage", "task", "data_format") or keys[0] == "fallback":
            continue
        if part.kind == "reward":
            yield keys, part
        yield from (((*keys, *below), found) for below, found in _rewards(part))


def refuse_unmet(stage: Component, groups: Iterable[Group], name: Name) -> None:
    """Raises DataError for the first component of a stage that needs a column that no group has, or ignores one.

    A stage that runs others may give them rows of its own, so it is not checked; they are when they run.
    """
    if any(part.kind == "stage" for _, part in parts_of(stage)):
        return
    for _, message in unmet(stage, columns_of(groups), name):
        raise DataError(message)


def useless_monitors(stage: Stage, name: Name) -> Iterator[tuple[Keys, str]]:
    """The monitors that would never raise an alarm, since a stage makes no rollouts, or has `none` of what they watch.

    Each is where it is, and a message.
    """
    from rlhf_plugins.contract.run_kinds import Monitor, Stage

    for keys, part in parts_of(stage):
        if isinstance(part, Stage):
            yield from (((*keys, *below), message) for below, message in useless_monitors(part, name))
        elif isinstance(part, Monitor) and part.reads_rollouts and not stage.makes_rollouts:
            yield keys, f"monitor {name(part)} {READS_ROLLOUTS.format(name(stage))}"
        elif isinstance(part, Monitor) and part.watches and getattr(stage, part.watches, part) is None:
            has = f"watches {part.watches}, and stage {name(stage)} has `{part.watches}: none`"
            yield keys, f"monitor {name(part)} {has}, so that it would never raise an alarm: leave it out"


def refuse_useless_monitors(stage: Stage, name: Name) -> None:
    """Raises RunError for the first monitor of a stage that would never raise an alarm."""
    for _, message in useless_monitors(stage, name):
        raise RunError(message)


def _that_needs(component: Component, column: str) -> tuple[Keys, Component]:
    """The innermost part of a component that needs a column, and where it is."""
    for keys, part in parts_of(component):
        if column in part.needs_of():
            below, found = _that_needs(part, column)
            return (*keys, *below), found
    return (), component


def _that_ignore_soft_labels(component: Any) -> Iterator[tuple[Keys, Component]]:
    """The losses that are not made of others, and have the trait `takes_probabilities` but do not say it."""
    parts = list(parts_of(component))
    if not parts and "takes_probabilities" in component.traits and not component.takes_probabilities:
        yield (), component
    for keys, part in parts:
        yield from (((*keys, *below), found) for below, found in _that_ignore_soft_labels(part))
