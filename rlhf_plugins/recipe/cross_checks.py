"""Faults between the data and the stages of a recipe, each of which is correct alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from rlhf_plugins.contract.run_kinds import DataFormat
from rlhf_plugins.recipe import late_faults
from rlhf_plugins.recipe.column_needs import unmet, useless_monitors
from rlhf_plugins.recipe.order import Faulty, compared, named_stages, out_of_order, too_early
from rlhf_plugins.recipe.source import Keys
from rlhf_plugins.registry.registry import Registry

Made = Mapping[Keys, Any]
Unmade = Mapping[Keys, Faulty]


def faults(made: Made, unmade: Unmade, registry: Registry) -> Iterator[tuple[Keys, str]]:
    """A wrong order, useless parts, missing columns and files, and what would stop a recipe after stages have trained.

    Args:
        made: data and stages as objects, by their place.
        unmade: what is known of the others.
        registry: the components by name.
    """
    yield from _out_of_order(made, unmade, registry)
    yield from _useless_monitors(made, registry)
    yield from _unmet(made, registry)
    yield from late_faults.missing(made)
    yield from _foreseen(made, unmade, registry)


def clashes(names: list[tuple[str, Keys]]) -> list[tuple[Keys, str]]:
    """The stages that have the name of one before them."""
    problems = []
    for name, same in groupby(sorted(names), key=lambda pair: pair[0]):
        first, *others = [keys for _, keys in same]
        problems += [
            (
                keys,
                f"also stages.{first[1]} is called {name!r}; give one of them a `name:`",
            )
            for keys in others
        ]
    return problems


def _foreseen(made: Made, unmade: Unmade, registry: Registry) -> list[tuple[Keys, str]]:
    """What would stop the recipe after stages have trained."""
    stages = [(keys, stage) for keys, stage in made.items() if keys[0] == "stages"]
    data = made.get(("data",))
    sure = [(keys, stage) for keys, stage in stages if not any(("stages",) < other < keys for other in unmade)]

    def name(part: Any) -> str:
        return registry.find(type(part)).name

    found = (*late_faults.unjudged(sure, data, name), *late_faults.unanswered(stages, data, name))
    found = (*found, *late_faults.unmeasured(stages, data), *compared(sure, registry))
    return [*late_faults.taken(stages), *late_faults.without_optimizer(sure), *found]


def _out_of_order(made: Made, unmade: Unmade, registry: Registry) -> list[tuple[Keys, str]]:
    """The stages that need what no stage before them makes."""
    makers: dict[str, list[str]] = {}
    for name in registry.names("stage"):
        cls: Any = registry.get("stage", name)
        for what in cls.makes:
            makers.setdefault(what, []).append(name)
    stages = sorted((item for item in {**made, **unmade}.items() if item[0][0] == "stages"), key=itemgetter(0))
    early = too_early(made[("data",)]) if ("data",) in made else ()
    return [*early, *out_of_order(stages, makers, lambda part: registry.find(type(part)).name)]


def _useless_monitors(made: Made, registry: Registry) -> list[tuple[Keys, str]]:
    """The monitors that would never raise an alarm."""
    stages = {keys: stage for keys, stage in made.items() if keys[0] == "stages"}
    return [
        ((*keys, *inside), message)
        for keys, stage in stages.items()
        for inside, message in useless_monitors(stage, lambda part: registry.find(type(part)).name)
    ]


def _unmet(made: Made, registry: Registry) -> list[tuple[Keys, str]]:
    """The components that need a column which the data are known to lack."""
    whole, found = made.get(("data",)), list[tuple[Keys, str]]()
    stages = {keys: stage for keys, stage in made.items() if keys[0] == "stages"}
    writers = {stage.name: stage.writes for stage in stages.values() if stage.writes}
    for keys, stage in stages.items():
        columns = _known_columns(stage.data or whole, writers)
        if columns is not None:
            faults = unmet(stage, columns, lambda part: registry.find(type(part)).name)
            found += [((*keys, *inside), message) for inside, message in faults]
    return found


def _known_columns(source: DataFormat | None, writers: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    """The columns of the data, or of what a stage will write; None is unknown."""
    if source is None:
        return None
    return next(
        (writers[name] for _, name, what in named_stages(source) if what == "data" and name in writers),
        source.known_columns(),
    )
