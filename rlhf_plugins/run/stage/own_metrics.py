"""The metrics that a stage returned, as its result can hold them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from rlhf_plugins.errors import PluginError

MAY_BE = "a metric is a number, text, a bool or None, or a list or mapping of them: leave it out, or write it as text"


def plain_metrics(of: str, metrics: Any) -> dict[str, Any]:
    """Metrics with arrays and tensors as lists and numbers.

    Args:
        of: whose they are, for an error.
        metrics: what a stage returned.

    Raises:
        PluginError: one is anything else than a number, text, a bool or None, or a list or mapping of them, or a key
            is no text.
    """
    if not isinstance(metrics, Mapping):
        raise PluginError(f"{of} returned metrics that are a {type(metrics).__name__}, not a mapping")
    return _by_name(of, "", metrics)


def without_number(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence on plain metrics that are NaN or infinite, such as `scores.dpo` and `means[1]`; none where none is."""
    places = ", ".join(_not_finite(metrics))
    return [f"Metrics that are NaN or infinite, and null in its result: {places}."] if places else []


def _not_finite(metrics: Any, place: str = "") -> Iterator[str]:
    if isinstance(metrics, Mapping):
        for name, value in metrics.items():
            yield from _not_finite(value, f"{place}.{name}" if place else str(name))
    elif isinstance(metrics, list):
        for number, value in enumerate(metrics):
            yield from _not_finite(value, f"{place}[{number}]")
    elif isinstance(metrics, Real) and not math.isfinite(metrics):
        yield place


def _by_name(of: str, place: str, metrics: Mapping[Any, Any]) -> dict[str, Any]:
    for name in metrics:
        if not isinstance(name, str):
            what = f"the metric {place!r}" if place else "metrics"
            raise PluginError(
                f"{of} returned {what} with the key {name!r:.80}, a {type(name).__name__}: write it as text"
            )
    return {name: _plain(of, f"{place}.{name}" if place else name, each) for name, each in metrics.items()}


def _plain(of: str, place: str, value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return _by_name(of, place, value)
    if isinstance(value, list | tuple):
        return [_plain(of, f"{place}[{number}]", each) for number, each in enumerate(value)]
    if hasattr(value, "tolist") and not isinstance(value, type):
        return _plain(of, place, value.tolist())
    raise PluginError(f"{of} returned the metric {place!r} as a {type(value).__name__} ({value!r:.80}); {MAY_BE}")
