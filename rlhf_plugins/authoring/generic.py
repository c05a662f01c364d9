"""The module of a new package for a kind without a template, made of the base class of the kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from string import Template
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.component import Component

if TYPE_CHECKING:
    from rlhf_plugins.registry.registry import Registry

MODULE = '''\
"""$example_kind: say here what yours is for."""

from __future__ import annotations

from dataclasses import dataclass

$imports


@dataclass(frozen=True)
class Example($base):
    """Say here what it does, and where it comes from."""
$methods

@hookimpl
def register_$hook() -> dict[str, $returned]:
    return $names
'''
METHOD = """
    def $name$signature:
        raise NotImplementedError("write it")
"""


def module(kind: str, registry: Registry) -> str:
    """The text of the module; what the base class leaves open has to be written."""
    base, ours = registry.base(kind), registry.definer(kind) is None
    methods = [Template(METHOD).substitute(name=name, signature=_signature(open_)) for name, open_ in _open(base)]
    outside = [f"from {base.__module__} import {base.__name__}"]
    imports = [f"from rlhf_plugins import {base.__name__}, hookimpl"] if ours else _sorted(outside)
    return Template(MODULE).substitute(
        example_kind=f"{'An' if kind[0] in 'aeiou' else 'A'} {kind}",
        imports="\n".join(imports),
        base=base.__name__,
        methods="".join(methods),
        hook=kind if ours else "components",
        returned="type" if ours else "dict[str, type]",
        names='{"example": Example}' if ours else f'{{"{kind}": {{"example": Example}}}}',
    )


def stages(kind: str, registry: Registry) -> list[str]:
    """A stage of a recipe that holds a component of the kind, as a template with `$component`; none where none does."""
    from rlhf_plugins.recipe.options import options

    for name in registry.names("stage"):
        found = options(registry.get("stage", name)).values()
        if any(option.required for option in found):
            continue
        for option in found:
            if option.kind == kind:
                return [f"stage: {name}, {option.name}: {'[$component]' if option.many else '$component'}"]
    return []


def _sorted(outside: list[str]) -> list[str]:
    return sorted([*outside, "from rlhf_plugins import hookimpl"])


def _open(base: type) -> list[tuple[str, Callable[..., Any]]]:
    """The methods of a base class that raise NotImplementedError, and its `__call__`."""
    own = [(name, function) for name, function in vars(base).items() if inspect.isfunction(function)]
    return [(name, one) for name, one in own if name not in vars(Component) and _is_open(one)]


def _is_open(function: Callable[..., Any]) -> bool:
    return "NotImplementedError" in function.__code__.co_names


def _signature(function: Callable[..., Any]) -> str:
    """The signature as the base class writes it, without annotations that need an import."""
    given = inspect.signature(function)
    plain = [parameter.replace(annotation=_plain(parameter.annotation)) for parameter in given.parameters.values()]
    return str(given.replace(parameters=plain, return_annotation=_plain(given.return_annotation))).replace("'", "")


def _plain(annotation: Any) -> Any:
    """The annotation if it names built-in types only."""
    words = str(annotation).replace("[", " ").replace("]", " ").replace("|", " ").replace(",", " ").split()
    known = {"str", "int", "float", "bool", "None", "dict", "list", "tuple", "object"}
    return annotation if isinstance(annotation, str) and set(words) <= known else inspect.Parameter.empty
