"""A recipe given as a mapping: plain values and their paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from rlhf_plugins.errors import Fault, RecipeError
from rlhf_plugins.recipe.source import Keys, Place, Source, dotted

UNNAMED = "recipe"  # what a fault names where a file would be


def of_mapping(recipe: Mapping[str, Any]) -> Source:
    """The values of a recipe, as YAML would have them. Raises RecipeError naming the path of what YAML cannot hold."""
    faults: list[Fault] = []
    values = _plain(recipe, (), faults)
    if faults:
        raise RecipeError(faults)
    return Source(values, {(): Place(UNNAMED, 0)})


def _plain(value: Any, keys: Keys, faults: list[Fault]) -> Any:
    if len(keys) > 50:
        faults.append(Fault(UNNAMED, 0, dotted(keys[:3]), "is nested too deeply"))
    elif isinstance(value, Mapping):
        for key in (key for key in value if not isinstance(key, str)):
            faults.append(Fault(UNNAMED, 0, dotted(keys), f"a key should be text, got {key!r}"))
        return {key: _plain(item, (*keys, key), faults) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        return [_plain(item, (*keys, index), faults) for index, item in enumerate(value)]
    elif isinstance(value, Path):
        return str(value)
    elif value is not None and not isinstance(value, str | bool | int | float):
        hint = "; write its name, or {'use': name, ...}" if is_dataclass(value) else ""
        faults.append(Fault(UNNAMED, 0, dotted(keys), f"should be a plain value, got {type(value).__name__}{hint}"))
    return value
