"""The class and the plugin behind every component name; `discovery` finds plugins.

Bundled components are registered through the same hooks as others. Everything is loaded once, at the first use.
A plugin that is broken or disabled adds nothing, and is named where a name is missing.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy

from rlhf_plugins.contract import hookspecs
from rlhf_plugins.errors import PluginError, nearest
from rlhf_plugins.registry.discovery import DISTRIBUTION, Found, Plugin, disabled, found, in_file

__all__ = ["DISTRIBUTION", "KINDS", "Plugin", "Registered", "Registry", "Unloaded", "commands", "registry"]

PREFIX = "register_"
NAME = "[a-z][a-z0-9_]*"
COMMANDS = "commands"  # not components: functions or typer apps, in modules of their own
HOOKS = tuple(name for name, spec in vars(hookspecs).items() if hasattr(spec, f"{hookspecs.PROJECT}_spec"))
KIND, ELSEWHERE = "kind", "components"  # hooks for kinds of other packages, and for components of such kinds
KINDS = tuple(
    name
    for hook in HOOKS
    if hook.startswith(PREFIX) and (name := hook.removeprefix(PREFIX)) not in {COMMANDS, KIND, ELSEWHERE}
)
BUILT_IN = ("rlhf_plugins.components", "rlhf_plugins.stages", "rlhf_plugins.lifecycle")
BUILT_IN_COMMANDS = ("rlhf_plugins.cli",)


@dataclass(frozen=True)
class Registered:
    """One registered name."""

    kind: str
    name: str
    cls: Any  # a class; what typer takes, of a command
    plugin: Plugin


@dataclass(frozen=True)
class Unloaded:
    """A plugin that was found and not loaded, and why."""

    plugin: Plugin
    status: Literal["broken", "disabled"]
    reason: str

    def __str__(self) -> str:
        return f"{self.plugin} is {self.status}: {self.reason}"


class Registry:
    """Registered classes by kind and name, and the hooks of a run's life.

    Args:
        kinds: the kinds of this registry; a module that registers another is refused.
    """

    def __init__(self, kinds: Sequence[str] = KINDS) -> None:
        self._bases: dict[str, type | None] = {kind: bases().get(kind) for kind in kinds}
        self._definers: dict[str, Plugin] = {}  # of kinds that are not ours
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._components: dict[tuple[str, str], Registered] = {}
        self._contested: dict[tuple[str, str], str] = {}  # why a name cannot be used
        self._modules: list[tuple[ModuleType, Plugin]] = []
        self.unloaded: list[Unloaded] = []

    @property
    def kinds(self) -> list[str]:
        """Ours in the order of the hooks, then those that plugins define."""
        return list(self._bases)

    def base(self, kind: str) -> type:
        """The base class of a kind. Raises PluginError with the known kinds and the nearest."""
        self._known_kind(kind)
        return self._bases[kind] or object

    def definer(self, kind: str) -> Plugin | None:
        """The plugin that defines a kind; None for ours. Raises PluginError as `base` does."""
        self._known_kind(kind)
        return self._definers.get(kind)

    @property
    def plugins(self) -> list[Plugin]:
        """Every plugin that loaded, in the order in which it did."""
        return [plugin for _, plugin in self._modules]

    def register(self, module: ModuleType, plugin: Plugin) -> None:
        """Adds what a module's hooks return; all of it or nothing.

        Raises:
            PluginError: a hook is unknown, raises, or returns a name that is taken or a class that is no component.
        """
        try:
            self._manager.register(module, name=plugin.name)
        except ValueError as error:
            raise PluginError(f"plugin {plugin}: another plugin is called {plugin.name!r} too") from error
        except pluggy.PluginValidationError as error:
            if self._manager.is_registered(module):  # which depends on what was wrong
                self._manager.unregister(module)
            raise PluginError(f"plugin {plugin}: {_first_line(error)}") from error
        try:
            self._check_hooks(module, plugin)
            defined = self._defined(module, plugin)
            made = list(self._made(module, plugin, {**self._bases, **defined}))
            for place, component in enumerate(made):
                self._refuse_clash(component, made[:place])
        except PluginError:
            self._manager.unregister(module)
            raise
        self._bases |= defined
        self._definers |= dict.fromkeys(defined, plugin)
        self._components |= {(component.kind, component.name): component for component in made}
        self._modules.append((module, plugin))
        for component in made:
            _note(component)

    def admit(self, plugins: Iterable[Found]) -> Registry:
        """Registers every plugin that may load and can; notes why the others do not. Returns the registry."""
        forbidden = disabled()
        loaded = []
        for each in plugins:
            name = each.plugin.name
            if name in forbidden:
                reason = f"by {forbidden[name]}; `rlhf plugins enable {name}` lets it load"
                self.unloaded.append(Unloaded(each.plugin, "disabled", reason))
                continue
            with self._noting(each.plugin):
                loaded.append((each.load(), each.plugin))
        self._register_all(loaded)
        return self

    def _register_all(self, loaded: Sequence[tuple[ModuleType, Plugin]]) -> None:
        """Registers modules in an order in which each finds the kinds that it needs, whichever defines them."""
        failed = []
        for module, plugin in loaded:
            try:
                self.register(module, plugin)
            except PluginError:
                failed.append((module, plugin))
        if len(failed) < len(loaded):
            return self._register_all(failed)
        for module, plugin in failed:
            with self._noting(plugin):
                self.register(module, plugin)
        return None

    @contextmanager
    def _noting(self, plugin: Plugin) -> Iterator[None]:
        try:
            yield
        except PluginError as error:
            self.unloaded.append(Unloaded(plugin, "broken", _without_name(error, plugin)))

    def with_files(self, paths: Sequence[Path]) -> Registry:
        """A registry that holds these files' components too. Raises PluginError when a file is not a valid plugin."""
        fresh = [file for file in map(in_file, paths) if file.plugin not in self.plugins]
        if not fresh:
            return self
        made = Registry(KINDS)
        made.unloaded, made._contested = list(self.unloaded), dict(self._contested)
        for module, plugin in self._modules:
            made.register(module, plugin)
        for file in fresh:
            made.register(file.load(), file.plugin)
        return made

    def names(self, kind: str) -> list[str]:
        """The names of a kind, sorted. Raises PluginError for an unknown kind."""
        self._known_kind(kind)
        return sorted(name for k, name in self._components if k == kind and (k, name) not in self._contested)

    def fault(self, kind: str, name: Any) -> str | None:
        """Why there is no component of this name, with the known names and the nearest; None where there is one."""
        if isinstance(name, str) and (kind, name) in self._components and (kind, name) not in self._contested:
            return None
        names = self.names(kind)
        contested = [why for (k, n), why in self._contested.items() if k == kind and n == name]
        missing = f"; not loaded: {'; '.join(map(str, self.unloaded))}" if self.unloaded else ""
        return contested[0] if contested else f"unknown {kind} {name!r} {nearest(str(name), names)}{missing}"

    def get(self, kind: str, name: str) -> type:
        """The class behind a name. Raises PluginError with the known names and the nearest."""
        if fault := self.fault(kind, name):
            raise PluginError(fault)
        cls: type = self._components[kind, name].cls
        return cls

    def hooks(self, name: str) -> list[tuple[Plugin, Callable[..., None]]]:
        """The plugins that implement a hook of a run, in the order of their calls; each takes all arguments by name."""
        loaded = {plugin.name: plugin for plugin in self.plugins}
        found = reversed(getattr(self._manager.hook, name).get_hookimpls())  # as pluggy calls them
        return [(loaded[impl.plugin_name], _taking(impl.function, impl.argnames)) for impl in found]

    def find(self, cls: type) -> Registered:
        """The registration of a class. Raises PluginError when no plugin registered it."""
        for component in self._components.values():
            if component.cls is cls:
                return component
        raise PluginError(f"{cls.__module__}.{cls.__qualname__} is not a registered component")

    def owner(self, module: str) -> Plugin | None:
        """The plugin that a module is, or is a part of; None for other people's code."""
        parts = module.split(".")
        own = {loaded.__name__: plugin for loaded, plugin in self._modules}
        return next((own[name] for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in own), None)

    def files(self, plugins: Sequence[Plugin]) -> dict[str, Path]:
        """The file of each of these plugins by its name; those of our own distribution are left out."""
        others = [(module, plugin) for module, plugin in self._modules if plugin.distribution != DISTRIBUTION]
        return {p.name: Path(str(m.__file__)) for m, p in others if p in plugins and getattr(m, "__file__", None)}

    def describe(self) -> list[Registered]:
        """Every component, sorted by kind and name."""
        return [self._components[key] for key in sorted(self._components)]

    def _known_kind(self, kind: str) -> None:
        if kind not in self._bases:
            raise PluginError(f"unknown component kind {kind!r} {nearest(kind, self._bases)}")

    def _check_hooks(self, module: ModuleType, plugin: Plugin) -> None:
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f"plugin {plugin}: {_first_line(error)} {_known_hooks(module)}") from error
        for hook in (name for name in HOOKS if name in vars(module)):
            marked = self._manager.parse_hookimpl_opts(module, hook)
            if marked is None:
                raise PluginError(f"plugin {plugin}: {hook} lacks the decorator @hookimpl")
            if marked["wrapper"] or marked["hookwrapper"]:
                raise PluginError(f"plugin {plugin}: {hook} is a wrapper, and each hook is called by itself")
            if hook.startswith(PREFIX) and hook.removeprefix(PREFIX) not in {*self._bases, *self._for_kinds}:
                raise PluginError(f"plugin {plugin}: {hook} {_elsewhere(hook)}")

    @property
    def _for_kinds(self) -> set[str]:
        return set() if COMMANDS in self._bases else {KIND, ELSEWHERE}

    def _defined(self, module: ModuleType, plugin: Plugin) -> dict[str, type]:
        """The base classes of the kinds that a module defines."""
        from rlhf_plugins.contract.component import Component

        hook = vars(module).get(PREFIX + KIND)
        found = _returned(hook, KIND, plugin) if hook else {}
        for kind, cls in found.items():
            if not re.fullmatch(NAME, str(kind)) or kind in {COMMANDS, KIND, ELSEWHERE}:
                raise PluginError(f"plugin {plugin}: {kind!r} cannot name a kind")
            if other := DISTRIBUTION if kind in bases() else self._definers.get(kind):
                raise PluginError(f"plugin {plugin}: kind {kind!r} is defined by {other} already; rename it")
            if not (inspect.isclass(cls) and issubclass(cls, Component) and cls.kind == kind):
                raise PluginError(
                    f"plugin {plugin}: kind {kind!r}: expected `class ...(Component, kind={kind!r})`, got {cls!r}"
                )
        return found

    def _made(self, module: ModuleType, plugin: Plugin, bases: dict[str, type | None]) -> Iterator[Registered]:
        for kind in bases:
            if hook := vars(module).get(PREFIX + kind):
                yield from _components(kind, _returned(hook, kind, plugin), plugin, bases)
        if hook := vars(module).get(PREFIX + ELSEWHERE):
            for kind, named in _returned(hook, ELSEWHERE, plugin).items():
                if kind not in bases:
                    raise PluginError(f"plugin {plugin}: unknown component kind {kind!r} {nearest(str(kind), bases)}")
                yield from _components(kind, named, plugin, bases)

    def _refuse_clash(self, component: Registered, before: Sequence[Registered]) -> None:
        key = component.kind, component.name
        if key in [(one.kind, one.name) for one in before]:
            raise PluginError(f"plugin {component.plugin}: {key[0]} {key[1]!r} is registered twice by this plugin")
        if other := self._components.get(key):
            self._contested[key] = (
                f"{component.kind} {component.name!r} is registered twice: by {other.plugin} and by "
                f"{component.plugin}; rename one, uninstall it or `rlhf plugins disable {component.plugin.name}`"
            )
            raise PluginError(self._contested[key])


@cache
def bases() -> dict[str, type]:
    """The base class of each of our kinds."""
    from rlhf_plugins.contract import interfaces, run_kinds
    from rlhf_plugins.contract.component import Component

    named = vars(interfaces) | vars(run_kinds)
    classes = [value for value in named.values() if inspect.isclass(value)]
    return {cls.kind: cls for cls in classes if issubclass(cls, Component)}


@cache
def registry() -> Registry:
    """The registry of this process, with every installed plugin that may load and can."""
    return Registry().admit(found(BUILT_IN, hookspecs.PROJECT))


def commands() -> Registry:
    """The commands that plugins add to `rlhf`; it imports their modules and no component."""
    return Registry((COMMANDS,)).admit(found(BUILT_IN_COMMANDS, hookspecs.COMMANDS))


def _taking(function: Callable[..., None], names: Sequence[str]) -> Callable[..., None]:
    return lambda **given: function(**{name: given[name] for name in names})


def _elsewhere(hook: str) -> str:
    group = hookspecs.COMMANDS if hook == PREFIX + COMMANDS else hookspecs.PROJECT
    return f"belongs in a module that an entry point of the group {group} names"


def _returned(hook: Callable[[], object], kind: str, plugin: Plugin) -> dict[str, Any]:
    try:
        with redirect_stdout(sys.stderr):
            returned = hook()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(f"plugin {plugin}: {PREFIX}{kind} raised {type(error).__name__}: {error}") from error
    if not isinstance(returned, dict):
        raise PluginError(f"plugin {plugin}: {PREFIX}{kind} returned {type(returned).__name__}, not a dict")
    return returned


def _components(
    kind: str, named: dict[str, Any], plugin: Plugin, bases: dict[str, type | None]
) -> Iterator[Registered]:
    for name, cls in named.items():
        component = Registered(kind, name, cls, plugin)
        _check(component, bases[kind])
        yield component


def _note(component: Registered) -> None:
    """Stores a component's name, the first that it was registered by, in its class, for messages."""
    from rlhf_plugins.contract.component import REGISTERED, Component

    cls = component.cls
    if inspect.isclass(cls) and issubclass(cls, Component) and REGISTERED not in vars(cls):
        setattr(cls, REGISTERED, component.name)


def _check(component: Registered, base: type | None) -> None:
    who = f"plugin {component.plugin}: {component.kind} {component.name!r}"
    words = "hyphens" if component.kind == COMMANDS else "underscores"
    pattern = NAME.replace("_", "-") if component.kind == COMMANDS else NAME
    if not isinstance(component.name, str) or not re.fullmatch(pattern, component.name):
        raise PluginError(f"{who}: a name is lower-case letters, digits and {words}")
    if component.kind == COMMANDS:
        if not callable(component.cls):
            raise PluginError(f"{who}: expected a function or a typer app, got {component.cls!r}")
        return
    if not inspect.isclass(component.cls) or not is_dataclass(component.cls):
        raise PluginError(f"{who}: expected a dataclass, got {component.cls!r}")
    if base is not None and not issubclass(component.cls, base):
        cls, needed = component.cls.__name__, base.__name__
        raise PluginError(
            f"{who}: {cls} must derive from {needed}: write `class {cls}({needed})`, its traits as keywords of the "
            "class (docs/plugins.md: from API 1 to API 2)"
        )
    if stranger := next(
        (n for n in getattr(component.cls, "like", ()) if n not in component.cls.__dataclass_fields__), ""
    ):
        raise PluginError(
            f"{who}: like={stranger!r} is no field {nearest(stranger, component.cls.__dataclass_fields__)}"
        )
    if not component.cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise PluginError(f"{who}: {component.cls.__name__} must be a frozen dataclass")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _without_name(error: PluginError, plugin: Plugin) -> str:
    return re.sub(rf"^plugin {re.escape(str(plugin))}:? ?", "", str(error))


def _known_hooks(module: ModuleType) -> str:
    marked = f"{hookspecs.PROJECT}_impl"
    strangers = [name for name, value in vars(module).items() if hasattr(value, marked) and name not in HOOKS]
    return nearest(strangers[0], HOOKS) if strangers else ""
