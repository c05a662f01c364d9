"""Finds plugins and knows, for every component name, the class and the plugin it came from.

It imports plugins and nothing of what they do. Built-in components are found by listing `components/` and `stages/`
and registered through the same hooks as everybody's; third parties are found through entry points of the group
`rlhf_plugins`. Everything is loaded at the first question, once.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from types import ModuleType
from typing import Any

import pluggy

from rlhf_plugins import hookspecs
from rlhf_plugins.errors import PluginError, known

PREFIX = "register_"
KINDS = tuple(name.removeprefix(PREFIX) for name in vars(hookspecs) if name.startswith(PREFIX))
BUILT_IN = ("rlhf_plugins.components", "rlhf_plugins.stages")
DISTRIBUTION = "rlhf-plugins"


@dataclass(frozen=True)
class Plugin:
    """Where a component comes from."""

    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Component:
    """One registered name."""

    kind: str
    name: str
    cls: type
    plugin: Plugin


class Registry:
    """Component classes by kind and name."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._components: dict[tuple[str, str], Component] = {}

    def register(self, module: ModuleType, plugin: Plugin) -> None:
        """Adds what a module's hooks return.

        Raises:
            PluginError: a hook is unknown, raises, or returns a name that is taken or a class that is no component.
        """
        try:
            self._manager.register(module, name=plugin.name)
            self._manager.check_pending()
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"plugin {plugin}: {_first_line(error)} {_known_hooks(module)}") from error
        for kind in KINDS:
            if hook := self._hook(module, kind, plugin):
                for name, cls in _returned(hook, kind, plugin).items():
                    self._add(Component(kind, name, cls, plugin))

    def _hook(self, module: ModuleType, kind: str, plugin: Plugin) -> Callable[[], object] | None:
        hook: Callable[[], object] | None = getattr(module, PREFIX + kind, None)
        if hook is not None and self._manager.parse_hookimpl_opts(module, PREFIX + kind) is None:
            raise PluginError(f"plugin {plugin}: {PREFIX}{kind} lacks the decorator @hookimpl")
        return hook

    def _add(self, component: Component) -> None:
        _check(component)
        key = component.kind, component.name
        if other := self._components.get(key):
            raise PluginError(
                f"{component.kind} {component.name!r} is registered twice: by {other.plugin} "
                f"and by {component.plugin}; rename one or uninstall it"
            )
        self._components[key] = component

    def names(self, kind: str) -> list[str]:
        """The names of a kind, sorted. Raises PluginError for an unknown kind."""
        if kind not in KINDS:
            raise PluginError(f"unknown component kind {kind!r} {known(kind, KINDS)}")
        return sorted(name for k, name in self._components if k == kind)

    def get(self, kind: str, name: str) -> type:
        """The class behind a name. Raises PluginError with the known names and the nearest."""
        names = self.names(kind)
        if name not in names:
            raise PluginError(f"unknown {kind} {name!r} {known(name, names)}")
        return self._components[kind, name].cls

    def find(self, cls: type) -> Component:
        """The registration of a class. Raises PluginError when no plugin registered it."""
        for component in self._components.values():
            if component.cls is cls:
                return component
        raise PluginError(f"{cls.__module__}.{cls.__qualname__} is not a registered component")

    def describe(self) -> list[Component]:
        """Every component, sorted by kind and name."""
        return [self._components[key] for key in sorted(self._components)]


@cache
def registry() -> Registry:
    """The registry of this process, with every installed plugin loaded. Raises PluginError on a broken one."""
    loaded = Registry()
    for package in BUILT_IN:
        for name in _modules(package):
            short = name.removeprefix("rlhf_plugins.")
            loaded.register(importlib.import_module(name), Plugin(short, DISTRIBUTION, version(DISTRIBUTION)))
    for entry in sorted(entry_points(group=hookspecs.PROJECT), key=lambda entry: entry.name):
        plugin = _provenance(entry)
        loaded.register(_import(entry, plugin), plugin)
    return loaded


def _modules(package: str) -> Iterator[str]:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        yield f"{package}.{module.name}"


def _provenance(entry: EntryPoint) -> Plugin:
    dist = entry.dist
    return Plugin(entry.name, dist.name if dist else "unknown", dist.version if dist else "unknown")


def _import(entry: EntryPoint, plugin: Plugin) -> ModuleType:
    try:
        loaded: ModuleType = entry.load()
    except Exception as error:
        raise PluginError(
            f"plugin {plugin} cannot be imported from {entry.value!r}: {type(error).__name__}: {error}; "
            f"mend it or `pip uninstall {plugin.distribution}`"
        ) from error
    return loaded


def _returned(hook: Callable[[], object], kind: str, plugin: Plugin) -> dict[str, Any]:
    try:
        returned = hook()
    except Exception as error:
        raise PluginError(f"plugin {plugin}: {PREFIX}{kind} raised {type(error).__name__}: {error}") from error
    if not isinstance(returned, dict):
        raise PluginError(f"plugin {plugin}: {PREFIX}{kind} returned {type(returned).__name__}, not a dict")
    return returned


def _check(component: Component) -> None:
    who = f"plugin {component.plugin}: {component.kind} {component.name!r}"
    if not isinstance(component.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", component.name):
        raise PluginError(f"{who}: a name is lower-case letters, digits and underscores")
    if not inspect.isclass(component.cls) or not is_dataclass(component.cls):
        raise PluginError(f"{who}: expected a dataclass, got {component.cls!r}")
    if not component.cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise PluginError(f"{who}: {component.cls.__name__} must be a frozen dataclass")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _known_hooks(module: ModuleType) -> str:
    hooks = [PREFIX + kind for kind in KINDS]
    strangers = [name for name in vars(module) if name.startswith(PREFIX) and name not in hooks]
    return known(strangers[0], hooks) if strangers else ""
