"""Finds the stages of a recipe that need what no stage before them makes, or score alone what that compares.

Nothing is loaded or built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from rlhf_plugins.contract.component import Component, Earlier
from rlhf_plugins.contract.run_kinds import Reward, Stage
from rlhf_plugins.errors import PluginError, nearest
from rlhf_plugins.recipe.column_needs import Name
from rlhf_plugins.recipe.options import Option, all_parts, options, parts_of
from rlhf_plugins.recipe.source import Keys, Source
from rlhf_plugins.registry.registry import Registry

WORDS = {
    "base": "a base",
    "data": "data",
    "evaluation": "an evaluation",
    "policy": "a policy",
    "reward": "a reward model",
}
OURS = "rlhf_plugins."
BEFORE = "no stage runs before the recipe's data is read: write it as the `data` of a stage"
ASKS = "asks a model, which only a stage can open: write the data as the `data` of a stage"

Fault = tuple[Keys, str]


@dataclass(frozen=True)
class Faulty:
    """A stage with a fault of its own, so far as those that name it need it, and the stages that it names itself."""

    name: str
    cls: type[Stage] | None  # its class, or the nearest one to a misspelt name; None: none is near
    written: Mapping[str, Any] = field(default_factory=dict)

    @property
    def makes(self) -> frozenset[str]:
        """All that it may hand on."""
        return frozenset(WORDS) if self.cls is None else self.cls.makes


Placed = tuple[Keys, Stage | Faulty]


def faulty(keys: Keys, values: Mapping[str, Any], source: Source, registry: Registry) -> Faulty:
    """What the words of a recipe say of a stage that cannot be made of them; of data they say nothing."""
    if keys == ("data",):
        return Faulty("", None)
    index = int(keys[1])
    written = values["stages"][index] or source.values["stages"][index]
    words: Mapping[str, Any] = written if isinstance(written, dict) else {"stage": written}
    kind, names = str(words.get("stage")), registry.names("stage")
    near = kind if kind in names else next(iter(get_close_matches(kind, names, n=1)), None)
    cls = None if near is None or registry.fault("stage", near) else registry.get("stage", near)
    default = "" if cls is None else options(cls)["name"].default
    return Faulty(str(words.get("name") or default), cls, words)


def out_of_order(stages: Sequence[Placed], makers: dict[str, list[str]], name: Name) -> Iterator[Fault]:
    """What each stage needs of those before it and does not find; of one at fault, only the stages that it names.

    Args:
        stages: the stages of a recipe, in order, each with its place.
        makers: what stages make -> the names of the registered stages that make it.
        name: what a recipe calls a component.
    """
    for place, (keys, stage) in enumerate(stages):
        before, after = [s for _, s in stages[:place]], [s for _, s in stages[place + 1 :]]
        if isinstance(stage, Faulty):
            for option, value, what in _named_by(stage):
                if message := _unknown(value, what, before, after):
                    yield (*keys, option), message
            continue
        parts = list(all_parts(stage))
        for number, (inside, part) in enumerate(parts):
            for option, value, what in named_stages(part):
                if message := _unknown(value, what, before, after):
                    yield (*keys, *inside, option), message
            needed = part.takes - {what for _, _, what in named_stages(part)}
            made = {what for other in (*before, *_done(parts[:number], inside)) for what in other.makes}
            for what in sorted(needed - made):
                which = ", ".join(makers.get(what, ())) or "none is installed"
                message = f"{part.kind} {name(part)} needs a stage before this one that makes {WORDS[what]} ({which})"
                yield (*keys, *inside), message


def compared(stages: Sequence[tuple[Keys, Stage]], registry: Registry) -> Iterator[Fault]:
    """Parts that score responses alone by a reward that compares them.

    Args:
        stages: the stages of a recipe, in order, each with its place.
        registry: the components by name.
    """
    for place, (keys, stage) in enumerate(stages):
        before = [other for _, other in stages[:place]]
        for inside, part in all_parts(stage):
            for own, reward in parts_of(part):
                called = next(_comparing(reward, before, registry), "") if reward.kind == "reward" else ""
                try:
                    if called:
                        part.fits_compared(str(own[0]), called)
                except ValueError as error:
                    yield (*keys, *inside), f"{part.kind} {_namer(registry)(part)}: {error}"


def _namer(registry: Registry) -> Name:
    """What a recipe calls a component."""
    return lambda part: registry.find(type(part)).name


def _comparing(reward: Component, before: Sequence[Stage], registry: Registry) -> Iterator[str]:
    """The aggregations by which a reward compares: its own, of what it opens, and of the stage that trained it."""
    for _, part in all_parts(reward):
        yield from _of_part(part, registry)
        if "reward" in part.takes:
            wanted = {value for _, value, what in named_stages(part) if what == "reward"}
            makers = (stage for stage in reversed(before) if "reward" in stage.makes)
            maker = next((stage for stage in makers if not wanted or stage.name in wanted), None)
            yield from () if maker is None else _aggregated(maker, registry)


def _of_part(part: Any, registry: Registry) -> Iterator[str]:
    """The aggregation that a component itself is or opens, where it compares responses."""
    if isinstance(part, Reward):
        yield from _of_saved(part, registry)
    if part.kind == "aggregation" and part.compares_siblings:
        yield _namer(registry)(part)


def _of_saved(reward: Reward, registry: Registry) -> Iterator[str]:
    """The aggregation of a saved ensemble, where it compares responses; one that is unknown is refused when opened."""
    from rlhf_plugins.recipe.assemble import component

    if (spec := reward.saved_aggregation()) is None:
        return
    try:
        found = component("aggregation", spec, registry)
    except PluginError:
        return
    if found.compares_siblings:
        yield str(spec["use"])


def _aggregated(stage: Stage, registry: Registry) -> Iterator[str]:
    """The aggregations of an ensemble that a stage trains or hands on, or a stage that it runs, which compare."""
    for _, part in parts_of(stage):
        yield from _of_part(part, registry)
        if isinstance(part, Stage):
            yield from _aggregated(part, registry)


def _done(parts: Sequence[tuple[Keys, Component]], at: Keys) -> Iterator[Stage]:
    """The stages within a stage that it trains before this place, in the order of its options."""
    yield from (part for keys, part in parts if keys and isinstance(part, Stage) and at[: len(keys)] != keys)


def too_early(data: Component) -> Iterator[Fault]:
    """What of the recipe's own data needs an earlier stage or a model."""
    for inside, part in all_parts(data):
        yield from ((("data", *inside, option), BEFORE) for option, _, _ in named_stages(part))
        if part.kind == "data_step" and part.builds:
            yield ("data", *inside), ASKS


def _unknown(value: str, what: str, before: Sequence[Stage | Faulty], after: Sequence[Stage | Faulty]) -> str:
    """What is wrong with the name of an earlier stage; empty where there is one."""
    names = [stage.name for stage in before if what in stage.makes]
    renamed = what != "data" and any(not _is_ours(stage) for stage in before if what in stage.makes)
    anything = any(isinstance(stage, Faulty) and stage.cls is None for stage in before)
    if value.partition("/")[0] in names or renamed or anything:
        return ""
    if value in [stage.name for stage in after]:
        return f"stage {value!r} comes after this one: put it before"
    return f"no stage before this one makes {WORDS[what]} of the name {value!r} {nearest(value, names)}"


def _is_ours(stage: Stage | Faulty) -> bool:
    """Whether what it makes has its name; a plugin's stage may give several names."""
    cls = stage.cls if isinstance(stage, Faulty) else type(stage)
    return cls is not None and cls.__module__.startswith(OURS)


def named_stages(component: Component) -> Iterator[tuple[str, str, str]]:
    """The options that name an earlier stage: the option, its value, and what that stage makes."""
    return _named(type(component), lambda option: option.of(component))


def _named_by(stage: Faulty) -> Iterator[tuple[str, str, str]]:
    """The same of a stage at fault."""
    return iter(()) if stage.cls is None else _named(stage.cls, lambda option: stage.written.get(option.name))


def _named(cls: type, value_of: Callable[[Option], Any]) -> Iterator[tuple[str, str, str]]:
    for name, option in options(cls).items():
        mark, value = option.mark(Earlier), value_of(option)
        if mark is not None and isinstance(value, str) and value not in mark.words:
            yield name, value, mark.makes
