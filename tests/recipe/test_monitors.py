"""Where a recipe may say which monitors watch, and what a recipe of before is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import RecipeError, check_recipe
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

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
    assert stages(top, own, {"stage": "online", "name": "two", "reward": "gold"}) == [[], ["kl_limit"]]


def test_those_of_the_top_that_read_rollouts_are_left_out_where_there_are_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    top = {"monitors": ["kl_limit", "entropy_floor"]}
    own = {"stage": "online", "reward": "gold"}
    with caplog.at_level("WARNING"):
        found = stages(top, {"stage": "sft"}, {"stage": "preference"}, own)
    assert found == [[], [], ["kl_limit", "entropy_floor"]]
    said = "monitors: kl_limit, entropy_floor read rollouts, and are left out of stages that make none"
    assert [record.getMessage() for record in caplog.records].count(said) == 1


def test_one_of_the_top_that_watches_the_kl_is_left_out_where_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    own = [{"stage": "online", "name": kl, "reward": "gold", "kl": kl} for kl in ("none", "in_loss")]
    with caplog.at_level("WARNING"):
        assert stages({"monitors": ["kl_limit"]}, *own) == [[], ["kl_limit"]]
    said = "monitors: kl_limit watch kl, and are left out of stages with `kl: none`"
    assert [record.getMessage() for record in caplog.records].count(said) == 1


@pytest.mark.parametrize("stage", ["sft", "reward_model", "reward_ensemble", "preference"])
def test_a_monitor_that_reads_rollouts_is_refused_where_there_are_none(stage: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"base: sandbox\ndata: sandbox\nstages:\n- stage: {stage}\n  monitors:\n  - kl_limit\n")
    with pytest.raises(RecipeError) as caught:
        check_recipe(file)
    assert str(caught.value).endswith(
        f"recipe.yaml:6: stages.0.monitors.0: monitor kl_limit reads rollouts, and stage {stage} makes none, so that "
        "it would never raise an alarm: leave it out"
    )


def test_it_is_refused_in_a_stage_made_in_python_too(tmp_path: Path) -> None:
    stage = component("stage", {"use": "sft", "monitors": ["kl_limit"], "trainer": {"max_steps": 1}})
    with pytest.raises(RunError, match="monitor kl_limit reads rollouts, and stage sft makes none"):
        stage.run(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", tiny_pairs(8)))


def test_a_monitor_of_the_top_that_is_unknown_is_one_fault() -> None:
    with pytest.raises(RecipeError, match=r"unknown monitor 'kl_limits' \(did you mean kl_limit\?") as caught:
        stages({"monitors": ["kl_limits"]}, {"stage": "sft"}, {"stage": "preference"})
    assert len(caught.value.faults) == 1


def test_a_fallback_goes_with_its_option() -> None:
    for words in ({"fallback": "gold"}, {"abstained": "fallback"}):
        with pytest.raises(RecipeError, match="a second reward goes with `abstained: fallback`; write both or neither"):
            stages({}, {"stage": "online", "reward": "gold", **words})
