"""Words of a recipe in the wrong place: options of an inner block, and stages or files where a component is named."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.component import Earlier
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.recipe.options import Option, options
from rlhf_plugins.recipe.paths import SURELY

if TYPE_CHECKING:
    from rlhf_plugins.registry.registry import Registry

RANK = ("rank", "lora_r", "lora_rank")  # how others than PEFT call an adapter's `r`


def within(name: str, cls: type, found: Mapping[str, Any], registry: Registry) -> str:
    """The path to an option of that name within a resolved block of `cls`, such as `loss.beta`; empty where none is.

    The rank of an adapter is `r`.
    """
    from rlhf_plugins.recipe.trainer import SECRETS, config_options

    if cls is Adapter and name in RANK:
        return "r"
    reserved: frozenset[str] = getattr(cls, "reserved", frozenset())
    for option in options(cls).values():
        if option.block and name in options(option.block):
            return f"{option.name}.{name}"
        if option.config and name in config_options(option.config).keys() - reserved - SECRETS:
            return f"{option.name}.{name}"
        for path, one in _held(option, found.get(option.name)).items():
            inner = registry.get(str(option.kind), one[option.tag])
            if below := name if name in options(inner) else within(name, inner, one, registry):
                return f"{path}.{below}"
    return ""


def _held(option: Option, value: Any) -> dict[str, Mapping[str, Any]]:
    """The resolved components that an option holds, by their paths; without those at fault."""
    if not option.kind or not value:
        return {}
    held = {f"{option.name}.{index}": one for index, one in enumerate(value)} if option.many else {option.name: value}
    return {path: one for path, one in held.items() if one}


def as_component(word: Any, option: Option, stages: Any, registry: Registry) -> str:
    """What to write for a component where a recipe has the name of a stage or a file; empty for other words."""
    if not isinstance(word, str):
        return ""
    if option.tag == "format" and SURELY.fullmatch(word):
        return f"; a file is the source of a format: {{{option.tag}: NAME, source: {word}}}"
    names = [_name(stage) for stage in stages] if isinstance(stages, list) else []
    near = get_close_matches(word, [*names, *registry.names(str(option.kind))], n=1)
    written = _of_stage(str(option.kind), registry) if near and near[0] in names else None
    return f"; of a stage it is {{{option.tag}: {written[0]}, {written[1]}: {near[0]}}}" if written else ""


def _name(stage: Any) -> str:
    return str(stage.get("name") or stage.get("stage")) if isinstance(stage, dict) else str(stage)


def _of_stage(kind: str, registry: Registry) -> tuple[str, str] | None:
    """The component of a kind that names an earlier stage, and the option with which it does."""
    for name in registry.names(kind):
        if not registry.fault(kind, name):
            for option in options(registry.get(kind, name)).values():
                if option.mark(Earlier) is not None:
                    return name, option.name
    return None
