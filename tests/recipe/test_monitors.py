"""Where a recipe may say which monitors watch, and what a recipe of before is answered."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_plugins import RecipeError, check_recipe

BUNDLED = ["equal_rewards", "entropy_floor", "kl_limit", "value_divergence"]


def stages(top: dict[str, Any], *own: dict[str, Any]) -> list[list[str]]:
    """The monitors of each stage of a recipe."""
    recipe = {"base": "sandbox", "data": {"format": "sandbox"}, "output_dir": "out", "stages": list(own), **top}
    return [[one["use"] for one in stage["monitors"]] for stage in check_recipe(recipe)["stages"]]


def test_a_policy_that_samples_is_watched_by_default() -> None:
    assert stages({}, {"stage": "sft"}, {"stage": "online", "reward": "gold"}) == [[], BUNDLED]


def test_those_of_the_top_watch_every_stage_that_has_none_of_its_own() -> None:
    own = {"stage": "online", "reward": "gold", "monitors": []}
    top = {"monitors": [{"use": "kl_limit", "limit": 2.0}]}
    assert stages(top, {"stage": "sft"}, {"stage": "preference"}, own) == [["kl_limit"], ["kl_limit"], []]


def test_a_monitor_of_the_top_that_is_unknown_is_one_fault() -> None:
    with pytest.raises(RecipeError, match=r"unknown monitor 'kl_limits' \(did you mean kl_limit\?") as caught:
        stages({"monitors": ["kl_limits"]}, {"stage": "sft"}, {"stage": "preference"})
    assert len(caught.value.faults) == 1


def test_belts_are_answered_with_what_to_write() -> None:
    with pytest.raises(RecipeError, match=r"belts: is now `monitors`: write `monitors: \[\{use: kl_limit"):
        stages({}, {"stage": "online", "reward": "gold", "belts": {"max_kl": 1.0}})


def test_a_fallback_goes_with_its_option() -> None:
    for words in ({"fallback": "gold"}, {"abstained": "fallback"}):
        with pytest.raises(RecipeError, match="a second reward goes with `abstained: fallback`; write both or neither"):
            stages({}, {"stage": "online", "reward": "gold", **words})
