"""How long each stage of a recipe is by its options; it reads a small file of rows, and loads nothing."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from rlhf_plugins.contract.run_kinds import DataFormat
from rlhf_plugins.contract.workload import Course, Known

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.recipe.assemble import Assembled


def courses(assembled: Assembled, data: Data | None = None) -> dict[str, Course | None]:
    """By the names of the stages, in order; None where nobody knows.

    Args:
        assembled: the recipe.
        data: its rows, where they are loaded.
    """
    sources: dict[int, DataFormat] = {}

    @cache
    def rows(place: int) -> int | None:  # formats may hold lists, which have no hash
        return sources[place].known_rows()

    kinds = None if data is None else tuple(len(data.prompts.get(name, ())) for name in ("test", "out_of_distribution"))
    policies, rewards, found = 1, False, dict[str, Course | None]()
    for stage in assembled.stages:
        source = stage.data or assembled.data
        sources[id(source)] = source
        loaded = data if stage.data is None else None
        count = len(loaded.train) if loaded and loaded.train else rows(id(source))
        known = Known(count, assembled.base.lengths.max_length, policies, rewards, kinds if loaded else None)
        found[stage.name] = stage.course(known)
        policies, rewards = policies + ("policy" in stage.makes), rewards or "reward" in stage.makes
    return found
