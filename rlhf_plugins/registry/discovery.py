"""Finds plugins, where each comes from and whether it may load.

A plugin is a module. Ours are in packages of this distribution; third parties name theirs with an entry point; a
file is loaded only where a recipe names it. What is disabled is never imported.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from importlib.metadata import EntryPoint, distributions, entry_points, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from rlhf_plugins.contract.hookspecs import API_VERSION
from rlhf_plugins.errors import PluginError, nearest
from rlhf_plugins.registry.import_time import watched

DISTRIBUTION = "rlhf-plugins"
OWN_FILE = "file"  # the distribution of a plugin that a recipe names by its file
DECLARED = "rlhf_plugins_api"  # the name in which a plugin may declare its API version
SLOW = 10  # seconds of an import, without those of libraries that we need too, after which it is reported
DISABLED = "RLHF_PLUGINS_DISABLED"  # environment variable: names with commas, added to those of the file


@dataclass(frozen=True)
class Plugin:
    """Where a component comes from."""

    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Found:
    """A plugin that can be imported, and has not been."""

    plugin: Plugin
    where: str  # what will be imported
    import_module: Callable[[], ModuleType]

    def load(self) -> ModuleType:
        """Its module. Raises PluginError when it cannot be imported or was written for another API."""
        try:
            with _watched(self.plugin):
                module = self.import_module()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may end the process, or skip itself as a test does
            cure = "" if self.plugin.distribution == OWN_FILE else " or uninstall"
            raise PluginError(
                f"plugin {self.plugin} cannot be imported from {self.where!r}: {type(error).__name__}: {error}; "
                f"fix{cure} it"
            ) from error
        if not isinstance(module, ModuleType):
            raise PluginError(f"plugin {self.plugin}: {self.where!r} is a {type(module).__name__}, not a module")
        _check_api(module, self.plugin)
        return module


def found(packages: tuple[str, ...], group: str) -> Iterator[Found]:
    """Ours first, then the installed ones by name.

    Args:
        packages: whose modules are our own plugins; those that begin with an underscore are not.
        group: the group of entry points.
    """
    for package in packages:
        yield from _built_in(package)
    yield from map(_installed, sorted(_entries(group), key=lambda entry: entry.name))


def in_file(path: Path) -> Found:
    """A plugin that is one file; its version is a hash of its content. Raises PluginError when it is not there."""
    try:
        digest = sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        near = get_close_matches(path.name, [file.name for file in path.parent.glob("*.py")], n=1)
        hint = f" (did you mean {near[0]}?)" if near and not path.exists() else ""
        raise PluginError(f"plugin {str(path)!r} cannot be read: {error.strerror}{hint}") from error
    return Found(Plugin(path.name, OWN_FILE, f"sha256:{digest}"), str(path), lambda: _executed(path, digest))


def disabled() -> dict[str, str]:
    """The plugins that must not load, each with the file or variable that disables it."""
    by_variable = os.environ.get(DISABLED, "").replace(",", " ").split()
    return dict.fromkeys(_written(), str(disabled_file())) | dict.fromkeys(by_variable, DISABLED)


def disabled_file() -> Path:
    """The user's list of disabled plugins, a name a line; it need not exist."""
    from typer import get_app_dir

    return Path(get_app_dir(DISTRIBUTION)) / "disabled-plugins.txt"


def disable(name: str, names: list[str]) -> None:
    """Keeps a plugin from loading from now on. Raises PluginError unless it is one of `names`."""
    if name not in names:
        raise PluginError(f"unknown plugin {name!r} {nearest(name, names)}")
    _write({*_written(), name})


def enable(name: str, names: list[str]) -> None:
    """Takes a plugin off the list. Raises PluginError when it is unknown, or disabled by the environment too."""
    if name not in {*names, *_written()}:
        raise PluginError(f"unknown plugin {name!r} {nearest(name, names)}")
    _write(_written() - {name})
    if name in disabled():
        raise PluginError(f"plugin {name!r} is still disabled by the environment variable {DISABLED}")


def _written() -> set[str]:
    file = disabled_file()
    try:
        return set(file.read_text(encoding="utf-8").split()) if file.exists() else set()
    except (OSError, UnicodeDecodeError) as error:
        raise PluginError(f"{file}: the list of disabled plugins cannot be read: {error}; fix or remove it") from error


def _write(names: set[str]) -> None:
    file = disabled_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")
    except OSError as error:
        hint = f"set {DISABLED} instead"
        raise PluginError(
            f"{file}: the list of disabled plugins cannot be written: {error.strerror}; {hint}"
        ) from error


def _built_in(package: str) -> Iterator[Found]:
    ours = version(DISTRIBUTION)
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        name = f"{package}.{info.name}"
        plugin = Plugin(name.removeprefix("rlhf_plugins."), DISTRIBUTION, ours)
        if not info.name.startswith("_"):
            yield Found(plugin, name, lambda name=name: importlib.import_module(name))  # type: ignore[misc]


def _entries(group: str) -> list[EntryPoint]:
    """The entry points of a group, without those of a package whose files cannot be read."""
    try:
        return list(entry_points(group=group))
    except Exception:  # whatever its files hold
        return list(_readable_entries(group))


def _readable_entries(group: str) -> Iterator[EntryPoint]:
    seen: set[str] = set()
    for dist in distributions():
        try:
            name, entries = dist.name, dist.entry_points.select(group=group)
        except Exception as error:
            print(f"warning: a package in {dist.locate_file('')} is left out: {type(error).__name__}", file=sys.stderr)
            continue
        if name not in seen:
            seen.add(name)
            yield from entries


@contextmanager
def _watched(plugin: Plugin) -> Iterator[None]:
    """Wraps an import: what it prints goes to standard error, and a slow one of another package is reported."""
    message = (
        f"plugin {plugin} has been importing for {SLOW} s, without {DISTRIBUTION} and the libraries that it requires; "
        f"`rlhf plugins disable {plugin.name}` leaves it out"
    )
    ours = plugin.distribution == DISTRIBUTION  # whose imports are slow only on a busy machine
    watching = nullcontext() if ours else watched(SLOW, lambda: print(message, file=sys.stderr, flush=True))
    with watching, redirect_stdout(sys.stderr):
        yield


def _installed(entry: EntryPoint) -> Found:
    dist = entry.dist
    plugin = Plugin(entry.name, dist.name if dist else "unknown", dist.version if dist else "unknown")
    return Found(plugin, entry.value, entry.load)


def _executed(path: Path, digest: str) -> ModuleType:
    """The file as a module; the same content is the same module, so that its classes stay what they were."""
    name = f"rlhf_plugins_file_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("its name does not end in .py")
    module = module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks its annotations up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _check_api(module: ModuleType, plugin: Plugin) -> None:
    """Raises PluginError when the plugin declares another API version."""
    declared = getattr(module, DECLARED, API_VERSION)
    if declared == API_VERSION:
        return
    if not isinstance(declared, int):
        raise PluginError(f"plugin {plugin}: {DECLARED} should be a whole number, got {declared!r}")
    older = declared < API_VERSION
    cure = f"upgrade {plugin.distribution}" if older else f"upgrade {DISTRIBUTION}"
    raise PluginError(
        f"plugin {plugin} was written for API {declared} of plugins, and {DISTRIBUTION} {version(DISTRIBUTION)} has "
        f"API {API_VERSION}: {cure}"
    )
