"""Wraps every call of a component: checks its answer, and raises an error that names the component where it fails.

A call of a component, or of what it builds, goes through `answered`: it returns the checked answer, or raises a
ComponentError with the component, the fault, its line of code, and the call, which can be saved and repeated.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from rlhf_plugins.contract.component import REGISTERED, Component
from rlhf_plugins.contract.records import SamplerState
from rlhf_plugins.contract.reward_rows import Wrong
from rlhf_plugins.errors import ComponentError, RlhfError

MAKER = "made_by"  # attribute of a built object: the component that built it


@dataclass(frozen=True)
class Call:
    """A call that failed."""

    component: Any  # the component, or the object that it built
    inputs: tuple[Any, ...]
    building: bool = False  # `component.build(*inputs)`, not `component(*inputs)`


@dataclass(frozen=True)
class Made:
    """How a built object was made: by this component, from these arguments."""

    component: Any
    given: tuple[Any, ...]


def answered(component: Any, function: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """function(component, *inputs), checked as the component's kind says. Raises ComponentError."""
    states = _random_states(inputs)
    try:
        return maker(component).checked(_attempt(function, component, *inputs), *inputs)
    except Wrong as wrong:
        for generator, state in states:
            generator.bit_generator.state = state  # so that the call can be repeated
        raise _blamed(Call(component, inputs), wrong) from wrong.__cause__


def built_by(component: Any, function: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    """Calls a `build`. What it returns takes over the component's traits, and its calls are checked too."""
    try:
        made = _attempt(function, component, *given)
        component.check_built(made)
    except Wrong as wrong:
        raise _blamed(Call(component, given, building=True), wrong) from wrong.__cause__
    if not callable(made):
        return made
    acts = _guarded_module(made) if isinstance(made, nn.Module) else Built(made)
    vars(acts).setdefault(MAKER, Made(component, given))  # past nn.Module, which would register a component's modules
    for name in (*component.traits, *component.handed_down):
        if not hasattr(made, name):
            vars(acts)[name] = getattr(component, name)
    return acts


class Built:
    """A function or object that a component built, with its calls checked; its attributes are its own."""

    def __init__(self, acts: Callable[..., Any]) -> None:
        self.acts = acts

    def __call__(self, *inputs: Any) -> Any:
        """The object's answer. Raises ComponentError."""
        return answered(self, lambda _, *given: self.acts(*given), inputs)

    def __getattr__(self, name: str) -> Any:
        if "acts" not in vars(self):  # while it is copied
            raise AttributeError(name)
        return getattr(self.acts, name)


def unchecked(acts: Any) -> Callable[..., Any]:
    """The call of a component, or of what it built, without checks."""
    if isinstance(acts, Component):
        call = inspect.unwrap(type(acts).__call__)
        return lambda *inputs: call(acts, *inputs)
    if isinstance(acts, Built):
        return acts.acts
    if not getattr(acts, "is_guarded", False):
        return lambda *inputs: acts(*inputs)
    call = type(acts).__mro__[1].__call__
    return lambda *inputs: call(acts, *inputs)


def _guarded_module(made: nn.Module) -> nn.Module:
    """The module itself, of a class that checks its calls."""
    cls: Any = type(made)
    made.__class__ = _guarded_class(cls)
    return made


@cache
def _guarded_class(cls: Any) -> type:
    if getattr(cls, "is_guarded", False):
        return cls

    def call(self: Any, *inputs: Any) -> Any:
        return answered(self, cls.__call__, inputs)

    own = {"__call__": call, "is_guarded": True, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), own)


def _attempt(function: Callable[..., Any], *inputs: Any) -> Any:
    try:
        return function(*inputs)
    except (RlhfError, Wrong, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise Wrong(f"failed: {type(error).__name__}: {error}") from error


def _blamed(call: Call, wrong: Wrong) -> ComponentError:
    where = place(call.component, wrong.__cause__)
    return ComponentError(f"{named(call.component)} {wrong} ({where})", call)


def _random_states(inputs: tuple[Any, ...]) -> list[tuple[np.random.Generator, Any]]:
    generators = [given.rng for given in inputs if isinstance(given, SamplerState)]
    return [(one, one.bit_generator.state) for one in generators if isinstance(one, np.random.Generator)]


# ---- the component at fault ---------------------------------------------------------------------------------------
def maker(component: Any) -> Any:
    """The component that built this, or itself."""
    made = getattr(component, MAKER, None)
    return made.component if isinstance(made, Made) else component


def named(component: Any) -> str:
    """What messages call a component: its kind and its name in recipes.

    One that no plugin has registered has its class, and the module where to look for it.
    """
    by = maker(component)
    if REGISTERED in vars(type(by)):
        return f"{by.kind} {by.recipe_name}"
    component = component.acts if isinstance(component, Built) else component
    said = getattr(component, "__qualname__", None) or type(component).__qualname__
    said = f"{said} of {getattr(component, '__module__', None) or type(component).__module__}"
    return said if by is component else f"{said}, built by {type(by).__qualname__} of {type(by).__module__},"


def place(component: Any, error: BaseException | None = None) -> str:
    """Where to look, as `file:line`: the line of its own code that raised, or where what answered begins."""
    by = maker(component)
    file = getattr(sys.modules.get(type(by).__module__), "__file__", None)
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    if lines := [frame.lineno for frame in frames if frame.filename == file]:
        return f"{file}:{lines[-1]}"
    codes = list(_codes(component, by))
    code = next((code for code in codes if code.co_filename == file), codes[0] if codes else None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else str(file)


def _codes(component: Any, by: Any) -> Iterator[Any]:
    """The code of what was called, and of what built it."""
    component = component.acts if isinstance(component, Built) else component
    name = "forward" if isinstance(component, nn.Module) else "__call__"
    for function in (component, getattr(type(component), name, None), getattr(type(by), "build", None)):
        if code := getattr(inspect.unwrap(function) if callable(function) else None, "__code__", None):
            yield code
