"""How long each stage of a recipe is by its options; it reads a small file of rows, and loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract.run import Weights
from rlhf_plugins.contract.workload import Course, Kept, Known

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.contract.run_kinds import DataFormat, Stage
    from rlhf_plugins.recipe.assemble import Assembled

NOTHING: Mapping[str, Kept] = {}


def courses(
    assembled: Assembled, data: Data | None = None, kept: Mapping[str, Kept] | None = None
) -> dict[str, Course | None]:
    """How long each stage is, by name and in order; None is unknown.

    Args:
        assembled: the recipe.
        data: its rows, where they are loaded.
        kept: what stages take of their rows, by name, as far as a check found it.
    """
    from rlhf_plugins.recipe import base_policy

    found = base_policy.below(Weights(base_policy.NAME, assembled.base, assembled.adapter))
    more: dict[str, Any] = {"source": assembled.data, "kept": kept or {}, "below": found.base.path if found else ""}
    more["positions"] = base_policy.positions(assembled.base.path)
    return of_stages(assembled.stages, assembled.base.lengths.max_length, data, **more)


def of_stages(
    stages: Iterable[Stage],
    max_length: int | None,
    data: Data | None,
    source: DataFormat | None = None,
    kept: Mapping[str, Kept] = NOTHING,
    below: str = "",
    positions: int | None = None,
) -> dict[str, Course | None]:
    """How long each stage is, by name. It takes the arguments of `courses`, and the format of rows not yet loaded."""
    formats: dict[int, DataFormat | None] = {}

    @cache
    def rows(place: int) -> int | None:  # formats may hold lists, which have no hash
        found = formats[place]
        return found.known_rows() if found else None

    kinds = None if data is None else tuple(len(data.prompts.get(name, ())) for name in ("test", "out_of_distribution"))
    policies, rewards, found = 1, False, dict[str, Course | None]()
    for stage in stages:
        own = stage.data or source
        formats[id(own)] = own
        loaded = data if stage.data is None else None
        count = len(loaded.train) if loaded and loaded.train else rows(id(own))
        asked = (len(loaded.prompts.get("train", ())) or None) if loaded else None
        if (taken := kept.get(stage.name)) is not None:
            count = asked = taken.of(count if taken.rows is None else taken.rows)
        known = Known(count, max_length, policies, rewards, kinds if loaded else None, asked, below, positions)
        found[stage.name] = _saying(stage.course(known), taken)
        below = "" if "base" in stage.makes else below
        policies, rewards = policies + ("policy" in stage.makes), rewards or "reward" in stage.makes
    return found


def _saying(course: Course | None, kept: Kept | None) -> Course | None:
    """The same, whose words name the rows that are left out too."""
    if course is None or kept is None or not kept.words:
        return course
    return replace(course, words=f"{course.words}; {kept.words}")
