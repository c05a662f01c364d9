"""The options by which tokens are drawn from another distribution than a policy's own."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, TypedDict

PLAIN: Mapping[str, float] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}  # where they do nothing
CUTS = ("top_p", "top_k", "min_p")  # they always leave the likeliest token


class SamplingOptions(TypedDict, total=False):
    """What `Policy.sample` takes beside the temperature, under the names of transformers and TRL."""

    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float


def options_of(given: Any) -> SamplingOptions:
    """The options that an object has as attributes; None leaves one out."""
    values = {name: getattr(given, name) for name in PLAIN}
    return SamplingOptions(**{name: value for name, value in values.items() if value is not None})  # type: ignore[typeddict-item]


def changed(options: Mapping[str, Any]) -> dict[str, float]:
    """The options that are given and have an effect."""
    return {name: options[name] for name, plain in PLAIN.items() if options.get(name) not in (None, plain)}


def fault(temperature: float, options: Mapping[str, Any]) -> str:
    """Why nothing can be sampled so; empty where it can."""
    values = {"temperature": temperature, **PLAIN, **options}
    limits = {
        "temperature": (0 <= temperature < inf, "0 or above"),
        "top_p": (0 < values["top_p"] <= 1, "above 0 and at most 1"),
        "top_k": (isinstance(values["top_k"], int) and values["top_k"] >= 0, "a whole number, 0 for all tokens"),
        "min_p": (0 <= values["min_p"] <= 1, "from 0 to 1"),
        "repetition_penalty": (0 < values["repetition_penalty"] < inf, "above 0, and 1 does nothing"),
    }
    for name, (good, known) in limits.items():
        if not good:
            return f"{name} cannot be {values[name]}: it is {known}"
    useless = [name for name in CUTS if name in changed(options)]
    return (
        f"at temperature 0 the likeliest token is taken, whatever {useless[0]}" if not temperature and useless else ""
    )
