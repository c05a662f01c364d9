"""What each stage of a run was forecast to take of this machine's GPU: warned of, and kept beside what it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.forecast.forecast import Forecast
    from rlhf_plugins.recipe.assemble import Assembled

FORECAST = "forecast"  # key of the status: for each stage `allocated_bytes`, and words


def of_memory(assembled: Assembled, say: Callable[[str], None]) -> Forecast | None:
    """The forecast for this machine's GPU, with a line for each stage that it may not hold; None where there is none.

    Without a forecast a run finds out.
    """
    from rlhf_plugins.forecast import cards
    from rlhf_plugins.forecast.forecast import forecast
    from rlhf_plugins.forecast.words import warnings

    if (card := cards.present()) is None:
        return None
    try:
        found = forecast(assembled, card)
    except RunError as error:
        say(f"warning: no forecast of memory: {error}")
        return None
    for line in warnings(found):
        say(f"warning: {line}")
    return found


def failed() -> frozenset[str]:
    """The fast paths that later forecasts count without, since a trial failed on a GPU."""
    from rlhf_plugins.engine.half import trials

    return trials.failed("cuda")


def after_trials(assembled: Assembled, before: frozenset[str]) -> dict[str, Any]:
    """The entry of the status for what computes, where more fast paths have failed than before; else nothing."""
    return noted(of_memory(assembled, lambda _: None)) if failed() > before else {}


def noted(found: Forecast | None) -> dict[str, Any]:
    """The entry of the status."""
    if found is None:
        return {}
    from rlhf_plugins.forecast.words import in_short

    known = [one for one in found.stages if one.phases]
    stages = {one.name: {"allocated_bytes": one.allocated_bytes, "words": in_short(one)} for one in known}
    return {FORECAST: stages}


def words(status: Mapping[str, Any], stage: str) -> str:
    """What runs, and what was forecast for it, where memory runs out: `stage dpo, forecast 4.1 GiB of ...`."""
    known = status.get(FORECAST, {}).get(stage)
    return f"stage {stage}, {known['words']}" if known else f"stage {stage}"


def forecast_bytes(status: Mapping[str, Any], stage: str) -> int | None:
    """What torch was forecast to allocate at a stage's peak."""
    known = status.get(FORECAST, {}).get(stage)
    return None if known is None else int(known["allocated_bytes"])
