"""A trainer's constructor with TRL's arguments in TRL's order, and ours by keyword."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from inspect import Parameter, Signature, signature
from typing import Any, TypeVar

from rlhf_plugins.contract.component import Component
from rlhf_plugins.engine.precision import on_one_gpu
from rlhf_plugins.errors import PluginError, RunError, nearest

Own = TypeVar("Own")


def joint_signature(trainer: type, own: type) -> Signature:
    """The signature of TRL's trainer with the fields of a dataclass behind it, by keyword alone."""
    theirs = list(signature(trainer).parameters.values())
    ours = [Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type) for f in fields(own)]
    return Signature([*theirs, *ours])


def split_arguments(
    trainer: type, own: type[Own], given: Sequence[Any], named: Mapping[str, Any]
) -> tuple[dict[str, Any], Own]:
    """What a constructor was given: TRL's arguments by name, without those left out, and ours; of one GPU at most.

    Raises:
        PluginError: a component of ours is given by its name alone.
        TypeError: an argument is unknown, missing or given twice.
    """
    form = joint_signature(trainer, own)
    if unknown := [name for name in named if name not in form.parameters]:
        raise TypeError(f"no argument is called {unknown[0]!r} {nearest(unknown[0], form.parameters)}")
    bound = form.bind(*given, **named).arguments
    ours = {f.name: bound.pop(f.name) for f in fields(own) if f.name in bound}  # type: ignore[arg-type]
    words = {f.name for f in fields(own) if "str |" in str(f.type) or "Literal" in str(f.type)}  # type: ignore[arg-type]
    for name, value in ours.items():
        names = [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str)]
        if names and name not in words:
            raise PluginError(f"{name} is a component, not a name: write component(kind, {names[0]!r}) for {name}")
    if bound.get("args") is not None:
        on_one_gpu(bound["args"])
    return dict(bound), own(**ours)


def refuse_others(own: object, kinds: Mapping[str, type], functions: Collection[str] = ()) -> None:
    """Raises RunError for an argument of ours that is neither left out nor of its class.

    Args:
        own: the arguments; one that is a tuple by default takes a list.
        kinds: the class of each by name, of components or of options.
        functions: those that may be functions instead.
    """
    for name, kind in kinds.items():
        value, default = getattr(own, name), getattr(type(own), name)
        several = isinstance(default, tuple)
        if value is default or (callable(value) and name in functions):
            continue
        each = value if several and isinstance(value, list | tuple) else [value]
        wrong = [one for one in each if not isinstance(one, kind)] or ([value] if several and each is not value else [])
        if wrong:
            function = " or a function" if name in functions else ""
            raise RunError(f"{name}= takes {_words(kind, several)}{function}, not a {type(wrong[0]).__name__}")


def _words(kind: Any, several: bool) -> str:
    if not issubclass(kind, Component):
        return f"{kind.__name__}(...)"
    return f"a list of components of the kind {kind.kind}" if several else f"a component of the kind {kind.kind}"
