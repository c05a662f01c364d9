"""The conformance kit: properties that every component of a kind must have, and findings where it lacks one.

The properties are in `properties`, one function each.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch

from rlhf_plugins.errors import PluginError, RlhfError, nearest
from rlhf_plugins.registry.discovery import OWN_FILE
from rlhf_plugins.registry.registry import KINDS, Registered, Registry, registry
from rlhf_plugins.testing.subject import Broken, Subject, Untried, raised


@dataclass(frozen=True)
class Finding:
    """One property that does not hold of one component."""

    component: str  # its kind and name
    property: str
    tried: str
    expected: str
    came: str
    matters: str

    def __str__(self) -> str:
        parts = ("tried", "expected", "came", "matters")
        lines = [f"  {part:<9} {getattr(self, part)}" for part in parts]
        return "\n".join([f"{self.component}: {self.property}", *lines])


@dataclass(frozen=True)
class Property:
    """What must hold of components of some kinds; `holds` raises Broken where it does not."""

    name: str
    kinds: tuple[str, ...]  # none: all, those of other packages too
    matters: str  # the first paragraph of its docstring
    holds: Callable[[Subject], None]
    trains: bool = False  # runs small trainings, which takes seconds


PROPERTIES: dict[str, Property] = {}
OUTSIDE = "outside"  # means every kind that another package defines


def holds_of(*kinds: str, trains: bool = False) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Makes a function from a Subject a property of some kinds, or of all; OUTSIDE: kinds of other packages.

    Its name is the property's and its docstring says why it matters. It raises Broken through `expect`.
    """

    def add(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        name = function.__name__
        if name in PROPERTIES:
            raise PluginError(f"the property {name!r} is registered already")
        PROPERTIES[name] = Property(name, kinds, _paragraph(function), function, trains)
        return function

    return add


def properties_of(kind: str, among: Registry | None = None) -> list[Property]:
    """The properties of a kind, in the order of their definition.

    Args:
        kind: a kind of ours, or one that a package defines.
        among: what is registered; None: every installed plugin.

    Raises:
        PluginError: the kind is unknown.
    """
    from rlhf_plugins.testing.properties import loaded

    kinds = (among or registry()).kinds
    if kind not in kinds:
        raise PluginError(f"unknown component kind {kind!r} {nearest(kind, kinds)}")
    loaded()
    names = {kind} if kind in KINDS else {kind, OUTSIDE}
    return [one for one in PROPERTIES.values() if not one.kinds or names & set(one.kinds)]


def check(component: str | type, kind: str | None = None, options: Mapping[str, Any] | None = None) -> list[Finding]:
    """Tries every property on a component; empty where all hold.

    Args:
        component: a registered name, or a class, registered or not.
        kind: the kind of the component, where its name alone does not tell, or its class is not registered.
        options: a recipe's options to try it with, such as the small file that a data format is to read; what is left
            out is as in a recipe, and what is required is made up.

    Raises:
        PluginError: the name, the kind or an option is unknown.
    """
    subject = Subject.of(component, kind, options or {})
    return [found for one in properties_of(subject.kind, subject.registry) if (found := examine(subject, one))]


def examine(subject: Subject, one: Property) -> Finding | None:
    """What one property finds; None where it holds, or where the component cannot be made, which another tells.

    It is None too where the component refuses the run that the kit gives it, which `outcome` tells. Leaves the random
    state as it was.
    """
    found = outcome(subject, one)
    return found if isinstance(found, Finding) else None


def outcome(subject: Subject, one: Property) -> Finding | Untried | None:
    """`examine`, or why a property could not be tried on a component that refuses the kit's run."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            one.holds(subject)
        except Broken as broken:
            return Finding(str(subject), one.name, broken.tried, broken.expected, broken.came, one.matters)
        except Untried as untried:
            return untried
        except RlhfError:
            return None
        except Exception as error:  # such as a row of an answer that has no rows
            return Finding(str(subject), one.name, "the property", "an answer to compare", raised(error), one.matters)
    return None


def subjects(distribution: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Subject]:
    """Every component that a distribution registers.

    Args:
        distribution: its name, as pip has it.
        options: the options by `kind.name`, what to try a component with.
    """
    for found in registry().describe():
        if _normal(found.plugin.distribution) == _normal(distribution):
            given = (options or {}).get(f"{found.kind}.{found.name}", {})
            yield Subject(found.kind, found.name, found.cls, given, registry())


def subjects_in(file: Path, options: Mapping[str, Any]) -> list[Subject]:
    """Every component of a plugin that is one file, each tried with those of these options that it has.

    Raises:
        PluginError: the file is no sound plugin, registers no component, or none has one of the options.
    """
    whole = registry().with_files([file])
    found = [one for one in whole.describe() if (one.plugin.name, one.plugin.distribution) == (file.name, OWN_FILE)]
    if not found:
        raise PluginError(f"{file} registers no component")
    return _tried(found, str(file), options, {}, whole)


def subjects_of(distribution: str, options: Mapping[str, Any]) -> list[Subject]:
    """Every component of an installed distribution, each tried with those of these options that it has.

    Where its source is on this machine, its pyproject.toml gives others in `[tool.rlhf_plugins.options]`.

    Raises:
        PluginError: no component has one of the options.
    """
    found = [one for one in registry().describe() if _normal(one.plugin.distribution) == _normal(distribution)]
    return _tried(found, distribution, options, _own_options(distribution), registry()) if found else []


def _tried(
    found: Sequence[Registered], where: str, options: Mapping[str, Any], own: Mapping[str, Any], whole: Registry
) -> list[Subject]:
    """The components with their own options by `kind.name`, and those of `options` that they have."""
    from rlhf_plugins.recipe.options import options as options_of

    has = {one: set(options_of(one.cls)) for one in found}
    every = set().union(*has.values())
    if unknown := [name for name in options if name.partition(".")[0] not in every]:
        raise PluginError(f"{where}: no component has the option {unknown[0]!r} {nearest(unknown[0], every)}")
    made = []
    for one, names in has.items():
        given = {name: value for name, value in options.items() if name.partition(".")[0] in names}
        made.append(Subject(one.kind, one.name, one.cls, {**own.get(f"{one.kind}.{one.name}", {}), **given}, whole))
    return made


def _own_options(distribution: str) -> Mapping[str, Any]:
    """What the pyproject.toml of a distribution that was installed from a folder says."""
    try:
        origin = json.loads(metadata.distribution(distribution).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    file = Path(url2pathname(urlparse(origin.get("url", "")).path), "pyproject.toml")
    try:
        config = tomllib.loads(file.read_text(encoding="utf-8")) if "dir_info" in origin else {}
    except (OSError, ValueError):
        return {}
    options: Mapping[str, Any] = config.get("tool", {}).get("rlhf_plugins", {}).get("options", {})
    return options


def why_empty(distribution: str) -> str | None:
    """Why a distribution that should register components does not, or not all; None where nothing is known."""
    broken = [each for each in registry().unloaded if _normal(each.plugin.distribution) == _normal(distribution)]
    if broken:
        return "; ".join(map(str, broken))
    if any(subjects(distribution)):
        return None
    return f"{distribution} registers no component here: is it installed? (`pip install --editable .`)"


def _normal(distribution: str) -> str:
    return distribution.lower().replace("_", "-").replace(".", "-")


def _paragraph(function: Callable[..., Any]) -> str:
    return " ".join((function.__doc__ or "").partition("\n\n")[0].split())
