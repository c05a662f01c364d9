"""Values of a suite from the command line, `a.b=value`. It knows where a value goes, not what it means.

Those of the core are over a recipe, whose stages and components it knows; a suite has several lists of stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from rlhf_plugins import RunError, nearest

Place = tuple[str | int, ...]


def overridden(words: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The suite with other values; the words that were read stay as they are, since YAML may hold one at two places.

    Raises:
        RunError: each override that is none, leads nowhere, or is set again by a later one.
    """
    found: Any = words
    faults: list[str] = []
    set_by: list[tuple[Place, str]] = []
    for text in overrides:
        path, equals, written = text.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            faults.append(f"{text}: an override is written key=value or a.b=value")
            continue
        try:
            place = _place(found, keys)
            found = _put(found, place, yaml.safe_load(written))
        except yaml.YAMLError:
            faults.append(f"{text}: {written!r} is not a YAML value")
        except ValueError as error:
            faults.append(f"{text}: {error}")
        else:
            faults += [f"{was}: {text} sets it again" for at, was in set_by if at[: len(place)] == place]
            set_by.append((place, text))
    if faults:
        raise RunError("\n".join(faults))
    return dict(found)


def _place(here: Any, keys: Sequence[str]) -> Place:
    """Where a path leads, with the numbers of elements. Raises ValueError where it leads nowhere."""
    place: Place = ()
    for number, key in enumerate(keys, 1):
        at = ".".join(keys[: number - 1])
        if isinstance(here, list):
            place = (*place, _index(here, key, at))
        elif not isinstance(here, dict):
            raise ValueError(f"{at} is {here!r}, which has no options")
        elif number < len(keys) and key not in here:
            raise ValueError(f"{'.'.join(keys[:number])}: not there {nearest(key, here)}")
        else:
            place = (*place, key)
        here = here[place[-1]] if number < len(keys) else None
    return place


def _index(items: Sequence[Any], word: str, at: str) -> int:
    """The number of an element: as it is written, or of the one stage of that name or else of that kind."""
    if word.isdecimal() and int(word) < len(items):
        return int(word)
    stages = [one if isinstance(one, dict) else {} for one in items]
    kinds = [one.get("stage") for one in stages]
    for labels in ([one.get("name", one.get("stage")) for one in stages], kinds):
        if labels.count(word) == 1:
            return labels.index(word)
    raise ValueError(f"{at} has {len(items)} elements, numbered from 0: {word!r} is none of them, nor the one stage")


def _put(here: Any, place: Place, value: Any) -> Any:
    """A copy of a container with the value at a place."""
    if not place:
        return value
    key, rest = place[0], place[1:]
    if isinstance(here, list) and isinstance(key, int):
        return [*here[:key], _put(here[key], rest, value), *here[key + 1 :]]
    return {**here, key: _put(here.get(key), rest, value)}
