"""One component under test: how it is made and asked."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rlhf_plugins.errors import PluginError, RlhfError, nearest

if TYPE_CHECKING:
    from rlhf_plugins.registry.registry import Registry

WIDTH = 8  # of features


class Broken(AssertionError):
    """A property does not hold."""

    def __init__(self, tried: str, expected: str, came: str) -> None:
        super().__init__(f"tried {tried}; expected {expected}; came {came}")
        self.tried, self.expected, self.came = tried, expected, came


class Untried(Exception):
    """A component refuses what it is tried with, as one does whose server is not there, and as one always may."""


def expect(holds: bool, tried: str, expected: str, came: str) -> None:
    """Raises Broken with these words where something does not hold."""
    if not holds:
        raise Broken(tried, expected, came)


@dataclass(frozen=True)
class Subject:
    """A component class and the options to try it with."""

    kind: str
    name: str
    cls: Any  # a class of components
    options: Mapping[str, Any]
    registry: Registry

    @staticmethod
    def of(component: str | type, kind: str | None, options: Mapping[str, Any]) -> Subject:
        """What a name or a class means. Raises PluginError where it is unknown, or means more than one."""
        from rlhf_plugins.registry.registry import registry

        if isinstance(component, str):
            kind = kind or _kind_of(component)
            return Subject(kind, component, registry().get(kind, component), options, registry())
        for found in registry().describe():
            if found.cls is component:
                return Subject(found.kind, found.name, component, options, registry())
        kind = kind or getattr(component, "kind", None)
        if not kind:
            raise PluginError(f"{component.__qualname__} is not registered: say of which kind it is")
        return Subject(kind, "under_test", component, options, _with(component, kind))

    def __str__(self) -> str:
        return f"{self.kind} {self.cls.__name__ if self.name == 'under_test' else self.name}"

    @cached_property
    def required(self) -> dict[str, Any]:
        """The options that a recipe must give, as given or made up."""
        from rlhf_plugins.recipe.options import options as options_of
        from rlhf_plugins.testing.values import made_up

        missing = [o for o in options_of(self.cls).values() if o.required and o.name not in self.options]
        return {**{option.name: made_up(option, self.registry) for option in missing}, **self.options}

    def made(self, **changes: Any) -> Any:
        """The component as a recipe makes it. Raises PluginError where an option is refused."""
        from rlhf_plugins.recipe.assemble import component as assembled

        try:
            return assembled(self.kind, {"use": self.name, **self.required, **changes}, self.registry)
        except ValueError as error:  # a default that its own type does not allow
            raise PluginError(str(error)) from error

    def acting(self, **changes: Any) -> Any:
        """What acts: the component, or the module that it builds, in eval mode, with weights as after some training."""
        return trained(acting(self.kind, self.made(**changes)))


def acting(kind: str, component: Any, seed: int = 0) -> Any:
    """The component, or the module that it builds from `seed`, in eval mode."""
    if not component.builds:
        return component
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            built = component.build(WIDTH) if kind in ("pooling", "reward_head") else component.build()
        except RlhfError:
            raise
        except Exception as error:
            raise Broken("build, at width 8", "a module", raised(error)) from error
    return built.eval() if isinstance(built, nn.Module) else built


def has(acts: Any, trait: str) -> Any:
    """A trait of a component or of what it built; None where its kind has no such trait."""
    from rlhf_plugins.contract.guards import maker

    return getattr(acts, trait) if trait in maker(acts).traits else None


def trained(acts: Any, seed: int = 0) -> Any:
    """Moves every weight of a module a little, in place: weights that start at 0 hide what they multiply."""
    if isinstance(acts, nn.Module):
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weights in acts.parameters():
                weights.add_(0.3 * torch.randn(weights.shape, generator=draw))
    return acts


def raised(error: BaseException) -> str:
    """An exception in one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames and not isinstance(error, RlhfError) else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def _kind_of(name: str) -> str:
    from rlhf_plugins.registry.registry import registry

    kinds = [found.kind for found in registry().describe() if found.name == name]
    if not kinds:
        raise PluginError(f"unknown component {name!r} {nearest(name, {c.name for c in registry().describe()})}")
    if len(kinds) > 1:
        raise PluginError(f"{name!r} is a {' and a '.join(kinds)}: say which with --kind")
    return kinds[0]


def _with(component: type, kind: str) -> Registry:
    """A registry of what is installed and of one class more, as `under_test`."""
    from rlhf_plugins.contract.hookspecs import hookimpl
    from rlhf_plugins.registry.registry import ELSEWHERE, PREFIX, Plugin, registry

    extended: Registry = registry.__wrapped__()
    module = ModuleType("under_test")
    setattr(module, PREFIX + ELSEWHERE, hookimpl(lambda: {kind: {"under_test": component}}))
    extended.register(module, Plugin("under test", "unpackaged", "0"))
    return extended
