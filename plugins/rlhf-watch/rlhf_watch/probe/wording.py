"""A probe in words: lines for a terminal, rows for a report, numbers by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlhf_watch.probe.effects import Number
from rlhf_watch.probe.probing import Effect, Probed


def lines(found: Probed) -> Iterator[str]:
    """A line for each property, and a sentence on those that change the reward."""
    yield (
        f"{found.responses} responses to {found.prompts} prompts, whose rewards have a deviation of "
        f"{found.deviation:.3g}; intervals are 95%"
    )
    for one in found.effects:
        if one.reason:
            yield f"{one.name}: not measured: {one.reason}"
            continue
        seen = ""
        if one.correlation.value == one.correlation.value:
            seen = f"; as they are {_signed(one.slope)}, correlation {one.correlation.value:+.2f}"
        yield f"{one.name}: {_signed(one.effect)} for each {one.unit}, by {one.responses} responses{seen}"
    yield sentence(found)


def sentence(found: Probed) -> str:
    """Which properties change the reward by themselves."""
    shown = [one for one in found.effects if not one.reason and one.effect.shown]
    if not shown:
        return "no property is shown to change the reward by itself"
    raising = ", ".join(one.name for one in shown if one.effect.value > 0)
    lowering = ", ".join(one.name for one in shown if one.effect.value < 0)
    ways = [f"raised by {raising}"] * bool(raising) + [f"lowered by {lowering}"] * bool(lowering)
    return f"the reward is {' and '.join(ways)}"


def rows(found: Probed) -> list[dict[str, Any]]:
    """For a table of the report."""
    return [
        {
            "property": one.name,
            "unit": one.unit,
            "effect of setting it": one.reason or _signed(one.effect),
            "as observed": _signed(one.slope),
            "correlation": _rounded(one.correlation.value),
            "responses": one.responses,
        }
        for one in found.effects
    ]


def record(found: Probed) -> dict[str, Any]:
    """Everything as JSON; null for a number that could not be measured."""
    return {
        "prompts": found.prompts,
        "responses": found.responses,
        "deviation": found.deviation,
        "effects": {one.name: _record(one) for one in found.effects},
    }


def _record(one: Effect) -> dict[str, Any]:
    numbers = {"effect": one.effect, "slope": one.slope, "correlation": one.correlation}
    found: dict[str, Any] = {"unit": one.unit, "responses": one.responses, "reason": one.reason}
    for name, number in numbers.items():
        found[name] = number.value if number.value == number.value else None
        found[f"{name}_interval"] = list(number.interval) if number.interval.low == number.interval.low else None
    return found


def _signed(number: Number) -> str:
    if number.value != number.value:
        return "-"
    if number.interval.low != number.interval.low:
        return f"{number.value:+.3g} (of one prompt)"
    return f"{number.value:+.3g} [{number.interval.low:+.3g}, {number.interval.high:+.3g}]"


def _rounded(value: float) -> float | str:
    return round(value, 3) if value == value else "-"
