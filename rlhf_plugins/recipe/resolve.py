"""Fills in what a recipe leaves out and finds what is wrong in it; values in, values out, no component made.

A resolved block spells out every option and is a fixed point: resolving it again changes nothing.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rlhf_plugins.contract.component import Component
from rlhf_plugins.contract.on_disk import OnDisk
from rlhf_plugins.contract.run_kinds import Monitor, Stage
from rlhf_plugins.errors import nearest
from rlhf_plugins.recipe import members, misplaced, option_hints, trainer
from rlhf_plugins.recipe.options import NONE, Option, options, plain, validated
from rlhf_plugins.recipe.paths import located
from rlhf_plugins.recipe.source import Keys, Source, dotted
from rlhf_plugins.recipe.unsupported_options import check_trackers
from rlhf_plugins.registry.registry import Registry

logger = logging.getLogger(__name__)
RENAMED = {"reward": "reward_model"}  # stages
TRACKERS = "report_to"  # an option of the top that every `trainer` block takes over
ROLLOUTS = "read rollouts, and are left out of stages that make none"
SHARED = ("monitor",)  # kinds of components that the top of a recipe may give to all of its stages


@dataclass
class Resolver:
    """Resolves blocks against the classes of a registry; `problems` gathers every fault on the way."""

    registry: Registry
    source: Source | None = None  # where the values were written; None leaves paths as they are
    folder: Path = Path()  # paths in the source's file are relative to it
    problems: list[tuple[Keys, str]] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)  # options of the recipe's top that stages take over, resolved

    def block(self, cls: type, values: Mapping[str, Any], keys: Keys, tag: str = "") -> dict[str, Any]:
        """Every option of `cls`, from `values` or by default; `tag` is the key that named the class."""
        known_options = options(cls)
        renamed: Mapping[str, str] = getattr(cls, "renamed", {})
        of_trl: Mapping[str, str] = getattr(cls, "of_trl", {})
        reserved = {name: of_trl.get(name, "") for name in getattr(cls, "reserved", ())}
        found = {}
        for name, option in known_options.items():
            if name in values or not self.missing(option, keys):
                found[name] = self.option(option, self._with_shared(cls, option, values), keys, reserved)
            if not keys and option.kind in SHARED and found.get(name) is not None and not self._faulty(name):
                self.shared[name] = found[name]
            if not keys and name == TRACKERS and found.get(name) is not None:
                self.shared[name] = self.trackers(found[name])
        names = [*known_options, *(() if keys or tag else members.SCHEMA)]
        for name in values.keys() - known_options.keys() - {tag}:
            inner = misplaced.within(name, cls, found, self.registry)
            hint = f"(did you mean {inner}? known: {', '.join(sorted(names))})" if inner else nearest(name, names)
            here = f"; TRL's {name} {of_trl[name]}" if name in of_trl else ""
            said = "" if inner or here else _of_others(name, cls)
            self.problem((*keys, name), renamed.get(name) or said or f"unknown option {hint}{here}")
        return found

    def trackers(self, value: Any) -> Any:
        """The recipe's trackers, once it is known that they are there."""
        try:
            check_trackers(value)
        except ValueError as error:
            return self.problem((TRACKERS,), str(error))
        return value

    def _faulty(self, name: str) -> bool:
        """Whether an option of the top has a problem."""
        return any(keys[0] == name for keys, _ in self.problems)

    def _with_shared(self, cls: type, option: Option, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values, where they give none with those of the recipe's own components that are of use to `cls`.

        Without any at the recipe's top these are the default ones.
        """
        if option.kind not in SHARED or option.name in values:
            return values
        names = option.default if isinstance(option.default, list) else []
        given = self.shared.get(option.name, [{option.tag: name} for name in names])
        if not given and option.name not in self.shared:
            return values
        useless = {one[option.tag]: why for one in given if (why := self._useless(cls, option, one, values))}
        for why in dict.fromkeys(useless.values()) if option.name in self.shared else ():
            _say_left_out(option.name, tuple(name for name, its in useless.items() if its == why), why)
        return {**values, option.name: [one for one in given if one[option.tag] not in useless]}

    def _useless(self, cls: type, option: Option, one: Mapping[str, Any], values: Mapping[str, Any]) -> str:
        """What a component reads that a stage of this class, with these values, has not; empty where it has all."""
        kind, name = str(option.kind), one[option.tag]
        found: Any = Component if self.registry.fault(kind, name) else self.registry.get(kind, name)
        if not issubclass(found, Monitor) or not issubclass(cls, Stage):
            return ""
        if found.watches in values and values[found.watches] in (None, NONE):
            return f"watch {found.watches}, and are left out of stages with `{found.watches}: none`"
        return ROLLOUTS if found.reads_rollouts and not cls.makes_rollouts else ""

    def missing(self, option: Option, keys: Keys) -> bool:
        """Whether an option that is left out is required; if so, a problem is recorded."""
        if option.required:
            what = f": {names}" if option.kind and (names := ", ".join(self.registry.names(option.kind))) else ""
            self.problem((*keys, option.name), f"is required{what}")
        return option.required

    def option(self, option: Option, values: Mapping[str, Any], keys: Keys, reserved: Mapping[str, str]) -> Any:
        """The value of one option."""
        value, keys = values.get(option.name, option.default), (*keys, option.name)
        if option.nullable and value in (None, NONE):
            return None
        if option.kind:
            return self.components(option, value, keys) if option.many else self.component(option, value, keys)
        if option.block:
            return self.nested(option, value, keys)
        if option.config:
            return self.config(option.config, value, keys, reserved)
        if option.name not in values:
            return plain(option.annotation, value)
        try:
            return self.on_disk(option, plain(option.annotation, validated(option.annotation, value)), keys)
        except ValueError as error:
            return self.problem(keys, str(error))

    def on_disk(self, option: Option, value: Any, keys: Keys) -> Any:
        """A path that is there as an absolute one, any other value as it is. Raises ValueError as `located` does."""
        mark = option.mark(OnDisk)
        if mark is None or self.source is None or not isinstance(value, str):
            return value
        return located(value, mark, None if self.source.place(keys).typed else self.folder)

    def components(self, option: Option, value: Any, keys: Keys) -> list[dict[str, Any]] | None:
        """A list of components; where there is a default, it may be empty."""
        if not isinstance(value, list):
            return self.problem(keys, f"should be a list, got {_got(value)}")
        if not value and option.required:
            return self.problem(keys, f"needs at least one {option.kind}")
        return [self.component(option, item, (*keys, index)) for index, item in enumerate(value)]

    def component(self, option: Option, value: Any, keys: Keys) -> Any:
        """A component: its name, or a mapping with the tag and options; without a tag, the default's."""
        kind, tag = str(option.kind), option.tag
        names = self.registry.names(kind)
        if isinstance(value, str):
            named = getattr(self.registry.base(kind), "named", None)
            value = {tag: named[0], named[1]: value} if named and value not in names else {tag: value}
        if not isinstance(value, dict):
            how = f"should be the name of a {kind}, or its options with `{tag}: <name>`"
            return self.problem(keys, f"{how}; got {_got(value)} {nearest('', names)}")
        value = _renamed(value, tag) if kind == "stage" else value
        value = {tag: option.default, **value} if isinstance(option.default, str) else value
        if tag not in value:
            return self.problem(keys, f"needs `{tag}: <name of a {kind}>` {nearest('', names)}")
        if fault := self.registry.fault(kind, value[tag]):
            stages = self.source.values.get("stages") if self.source else None
            fault += misplaced.as_component(value[tag], option, stages, self.registry)
            return self.problem((*keys, tag) if len(value) > 1 else keys, fault)
        return {tag: value[tag], **self.block(self.registry.get(kind, value[tag]), value, keys, tag)}

    def nested(self, option: Option, value: Any, keys: Keys) -> dict[str, Any] | None:
        """A block of options that is no component, such as `adapter`."""
        assert option.block is not None
        if option.optional and value in (None, NONE):
            return None
        if isinstance(value, option.block):  # the default of the field
            value = {name: each.of(value) for name, each in options(option.block).items()}
        if not isinstance(value, dict):
            none = f" or `{NONE}`" if option.optional else ""
            typed = self.source is not None and self.source.place(keys).typed
            form = _form(option.block, value, dotted(keys) if typed else "")
            return self.problem(keys, f"should be a mapping of options{none}, got {_got(value)}{form}")
        return self.block(option.block, value, keys)

    def config(self, config: str, value: Any, keys: Keys, reserved: Mapping[str, str]) -> dict[str, Any] | None:
        """A block that goes to a TRL config class as it is."""
        if value is None:  # `trainer:` with nothing under it
            value = {}
        if not isinstance(value, dict):
            return self.problem(keys, f"should be a mapping of options of {config}, got {_got(value)}")
        if self.shared.get(TRACKERS) is not None:
            value = {TRACKERS: self.shared[TRACKERS], **value}
        result, problems = trainer.resolved(config, value, reserved)
        for name, message in problems:
            self.problem((*keys, name) if name else keys, message)
        return result

    def problem(self, keys: Keys, message: str) -> Any:
        """Records a fault, and returns a placeholder for the value."""
        self.problems.append((keys, message))
        return None


def _form(block: type, value: Any, path: str) -> str:
    """How to write the first option of a block in whose place the value is: with it if it fits, else by default.

    Args:
        block: the class of the block; where its first option has no default, a value that does not fit gets no words.
        value: what is in its place.
        path: the block on the command line; empty in a file.
    """
    first, how = next(iter(options(block).values())), "write"
    try:
        block(**{first.field: validated(first.annotation, value)})
    except (TypeError, ValueError):
        if first.required:
            return ""
        value, how = first.default, "write for example"
    if path:
        return f"; {how} {path}.{first.name}={shlex.quote(str(value))}"
    return f"; {how} {yaml.safe_dump({first.name: value}, default_flow_style=True, width=1000).strip()}"


def _of_others(name: str, cls: type) -> str:
    """What to write for an option that is unknown, where other tools or another part of a recipe have it."""
    instead = option_hints.in_a_stage(name) if issubclass(cls, Stage) else option_hints.OTHERS.get(name, "")
    return instead if instead.startswith("is ") else f"unknown option: {instead}" if instead else ""


def _renamed(value: dict[str, Any], tag: str) -> dict[str, Any]:
    """A stage under its present name; the old one stays its `name`, which references use."""
    old = value.get(tag)
    if not isinstance(old, str) or old not in RENAMED:
        return value
    _say_renamed(old)
    return {"name": old, **value, tag: RENAMED[old]}


@cache
def _say_renamed(old: str) -> None:
    """Once per process."""
    logger.warning("stage %s is now called %s; write that, a later version refuses the old name", old, RENAMED[old])


@cache
def _say_left_out(option: str, names: tuple[str, ...], why: str) -> None:
    """Once per process."""
    logger.warning("%s: %s %s", option, ", ".join(names), why)


def _got(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), repr(value))
