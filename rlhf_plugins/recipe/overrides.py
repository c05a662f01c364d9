"""Command-line overrides, `a.b=c`, over the values of a recipe or of a file of a package's own.

Whether the path and the value make sense is for the check, which then points at the override.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rlhf_plugins.errors import Fault, RecipeError, nearest
from rlhf_plugins.recipe.members import Written
from rlhf_plugins.recipe.options import NONE, options
from rlhf_plugins.recipe.schema import Recipe
from rlhf_plugins.recipe.source import Keys, Place, Source, dotted, value_of

StageName = Callable[[Any], str | None]  # a stage's values -> what the run calls it, None while they are wrong


def apply(source: Source, overrides: Sequence[str], stage_name: StageName) -> Source:
    """The source with overrides on top, in order. Raises RecipeError for overrides that lead nowhere."""
    values, places, faults = copy.deepcopy(source.values), dict(source.places), []
    for text in overrides:
        try:
            opened, at = _put(values, *parsed(text), stage_name)
        except ValueError as error:
            faults.append(Fault(file_of(text), 0, text.partition("=")[0], str(error)))
            continue
        here = Place(file_of(text), 0, typed=not isinstance(text, Written))
        around = replace(here, opened=True)
        places = {keys: place for keys, place in places.items() if keys[: len(at)] != at}
        for keys in (keys for keys, was_name in opened.items() if was_name):  # which keeps its place
            places.setdefault((*keys, _tag(keys)), places.get(keys, around))
        places |= {**dict.fromkeys(opened, around), at: here}
    if faults:
        raise RecipeError(faults)
    return Source(values, places)


def replaced(before: Source, overrides: Sequence[str], after: Source) -> list[str]:
    """The overrides of a source, and those that made another of it, that set nothing there: a later one set the same.

    Each is named as `file_of` does.
    """
    felt = {place.file for place in after.places.values() if not place.opened}
    typed = [place.file for place in before.places.values() if place.typed and not place.opened]
    return [name for name in dict.fromkeys((*typed, *map(file_of, overrides))) if name not in felt]


def file_of(text: str) -> str:
    """What a fault names in place of a file where an override set the value."""
    return f"{text} (command line)"


def parsed(text: str, what: str = "an override") -> tuple[list[str], Any]:
    """The keys and the YAML value of `a.b=c`. Raises ValueError that says how `what` is written."""
    path, equals, written = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ValueError(f"{what} is written key=value or a.b=value")
    return keys, value_of(written)


def _put(values: dict[str, Any], path: list[str], value: Any, stage_name: StageName) -> tuple[dict[Keys, bool], Keys]:
    """Sets the value in place; returns the containers made on the way, and whether each was a name, and the place."""
    here: Any = values
    keys: Keys = ()
    made: dict[Keys, bool] = {}
    for word, more in zip(path, [*path[1:], None], strict=True):
        key: Any = _index(here, word, keys, stage_name) if isinstance(here, list) else word
        keys = (*keys, key)
        if more is None:
            here[key] = value
            break
        found = here[key] if isinstance(here, list) else here.get(key)
        here[key] = below = _opened(found, keys)
        if below is not found:
            made[keys] = bool(below)
        here = below
    return made, keys


def _opened(value: Any, keys: Keys) -> Any:
    """The container to go on into: a component written as its bare name gets room for options."""
    if value in (None, NONE):
        return {}
    if isinstance(value, str):
        return {_tag(keys): value}
    if isinstance(value, dict | list):
        return value
    raise ValueError(f"{dotted(keys)} is {value!r} and has no options")


def _tag(keys: Keys) -> str:
    """What names a component in its options: an option that is called as one of a recipe has the tag of that one."""
    *_, name = [key for key in keys if isinstance(key, str)]
    same = options(Recipe).get(name)
    return same.tag if same and same.many == isinstance(keys[-1], int) else "use"


def _index(items: list[Any], word: str, keys: Keys, stage_name: StageName) -> int:
    if word.isdecimal():
        if int(word) < len(items):
            return int(word)
        raise ValueError(f"{dotted(keys)} has {len(items)} elements, numbered from 0")
    if keys != ("stages",) and not any(isinstance(item, dict) and "stage" in item for item in items):
        raise ValueError(f"{word!r} should be the number of an element, from 0 to {len(items) - 1}")
    return _stage(items, word, stage_name)


def _stage(stages: list[Any], word: str, stage_name: StageName) -> int:
    names = [stage_name(stage) for stage in stages]
    kinds = [stage.get("stage") if isinstance(stage, dict) else stage for stage in stages]
    for labels in (names, kinds):
        if labels.count(word) == 1:
            return labels.index(word)
    if word in kinds:
        raise ValueError(f"several stages are {word!r}; say which by name {nearest('', filter(None, names))}")
    raise ValueError(f"no stage {word!r} {nearest(word, {str(n) for n in (*names, *kinds) if n})}")
