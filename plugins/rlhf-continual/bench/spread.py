"""The stage `spread`: labels come round by round as in `online_preferences`, but on what the start wrote."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rlhf_continual.online_preferences import Course, OnlinePreferences

from rlhf_plugins import Run, hookimpl


@dataclass(frozen=True)
class Spread(OnlinePreferences):
    """Between offline and online: the schedule of the one, the pairs of the other."""

    def _sampled(self, run: Run, course: Course, count: int) -> list[list[Any]]:
        return super()._sampled(run, replace(course, policies={}), count)


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"spread": Spread}
