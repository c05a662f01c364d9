"""Values of a suite from the command line, `a.b=value`. It knows where a value goes, not what it means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from rlhf_plugins import RunError, nearest


def overridden(words: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The suite with other values; the words that were read stay as they are, since YAML may hold one at two places.

    Raises:
        RunError: each override that is none, or leads nowhere.
    """
    faults = []
    for text in overrides:
        path, equals, written = text.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            faults.append(f"{text}: an override is written key=value or a.b=value")
            continue
        try:
            words = _put(words, keys, yaml.safe_load(written), "")
        except yaml.YAMLError:
            faults.append(f"{text}: {written!r} is not a YAML value")
        except ValueError as error:
            faults.append(f"{text}: {error}")
    if faults:
        raise RunError("\n".join(faults))
    return words


def _put(here: Any, keys: Sequence[str], value: Any, at: str) -> Any:
    """A copy of a container with the value below it."""
    key, *rest = keys
    where = f"{at}.{key}".lstrip(".")
    if isinstance(here, list):
        if not key.isdecimal() or int(key) >= len(here):
            raise ValueError(f"{at} has {len(here)} elements, numbered from 0: {key!r} is none of them")
        new = _put(here[int(key)], rest, value, where) if rest else value
        return [*here[: int(key)], new, *here[int(key) + 1 :]]
    if not isinstance(here, dict):
        raise ValueError(f"{at} is {here!r}, which has no options")
    if rest and key not in here:
        raise ValueError(f"{where}: not there {nearest(key, here)}")
    return {**here, key: _put(here[key], rest, value, where) if rest else value}
