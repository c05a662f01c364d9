"""`seeds` and `sweep` mean trainings, each checked; a fault of one points at the seed or the value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import check_recipe
from rlhf_plugins.errors import RecipeError, RunError
from rlhf_plugins.recipe.check import load_recipe, several
from rlhf_plugins.run.run import run

RECIPE = {"base": "sandbox", "data": "sandbox", "stages": [{"stage": "preference", "name": "dpo"}]}
BETA = {"stages.dpo.loss.beta": [0.05, 1e-5]}


def labels(**more: Any) -> list[str]:
    return [member.label for member in several({**RECIPE, **more})]


def fault(**more: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        check_recipe({**RECIPE, **more})
    assert len(caught.value.faults) == 1, str(caught.value)
    return str(caught.value.faults[0])


def test_every_combination_with_every_seed() -> None:
    assert labels() == []
    assert labels(seeds=[0, 2]) == ["seed-0", "seed-2"]
    assert labels(sweep=BETA) == ["beta-0.05", "beta-1e-05"]
    found = several({**RECIPE, "seeds": [0, 1], "sweep": {**BETA, "adapter.r": [4, 8]}})
    assert len(found) == 8
    assert found[3].overrides == ["stages.dpo.loss.beta=0.05", "adapter.r=8", "seed=1"]
    assert (found[3].label, found[3].group) == ("beta-0.05_r-8_seed-1", "beta 0.05, r 8")


def test_equal_last_words_are_told_apart_by_more_of_the_path() -> None:
    sweep = {"stages.dpo.loss.beta": [1], "stages.ipo.loss.beta": [2]}
    assert labels(sweep=sweep) == ["dpo.loss.beta-1_ipo.loss.beta-2"]


def test_the_command_line_gives_seeds_and_takes_them_out() -> None:
    assert len(several(RECIPE, ["seeds=[3, 4]"])) == 2
    assert several({**RECIPE, "seeds": [0, 1]}, ["seeds=[]"]) == []
    assert "seeds" not in check_recipe({**RECIPE, "seeds": [0, 1]}, ["seeds=[]", "seed=1"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"seeds": 3}, "seeds: should be a list of whole numbers from 0, such as [0, 1, 2]"),
        ({"seeds": [1, 1]}, "seeds: names a seed twice"),
        ({"seeds": [1], "seed": 0}, "seeds: cannot go with `seed`: leave one of them out"),
        ({"sweep": [1]}, "sweep: should be a mapping of options to lists"),
        ({"sweep": {"adapter.r": 4}}, "sweep.adapter.r: should be a list of the values to try"),
        ({"sweep": {"seed": [4]}}, "sweep.seed: cannot be swept; seeds are listed in `seeds`"),
        ({"sweep": {"adapter.r": [*range(1, 1002)]}}, "sweep: means 1,001 trainings, more than 1,000"),
        ({"sweep": {"adapter.q": [4]}}, "sweep.adapter.q: unknown option (known: exclude_modules, init_lora_weights, "),
        ({"sweep": {"adapter.r": [4, -1]}}, "should be greater than or equal to 1, got -1 (at adapter.r=-1)"),
        ({"sweep": {"stages.dpp.name": ["a"]}}, "sweep.stages.dpp.name: no stage 'dpp' (did you mean dpo?"),
    ],
)
def test_a_fault_points_at_the_seeds_or_the_sweep(more: dict[str, Any], message: str) -> None:
    assert message in fault(**more)


def test_several_trainings_are_not_run_as_one(tmp_path: Path) -> None:
    several_in_one = load_recipe({**RECIPE, "seeds": [0, 1], "output_dir": str(tmp_path / "out")})
    with pytest.raises(RunError, match="a recipe with `seeds` is several trainings: run it with run_recipe"):
        run(several_in_one)


def test_a_misspelt_sweep_is_answered_by_the_nearest_word() -> None:
    with pytest.raises(RecipeError, match=r"sweeps: unknown option \(did you mean sweep\? .*, seeds, stages, sweep,"):
        check_recipe({"base": "sandbox", "data": "sandbox", "stages": ["sft"], "sweeps": {"seed": [1]}})


USELESS = "changes nothing, since a path of `sweep` sets the same"
LOSS, FACTOR = {"stages.dpo.loss": ["ipo"]}, {"stages.dpo.loss.beta": [0.3]}


def test_a_sweep_takes_nothing_of_its_own_back() -> None:
    """A loss that is put in place of a whole one has its default beta, whatever the name of the training says."""
    assert f"sweep.stages.dpo.loss.beta: {USELESS}" in fault(sweep={**FACTOR, **LOSS})
    assert f"sweep.adapter: {USELESS}" in fault(sweep={"adapter": ["none"], "adapter.r": [4]})
    assert check_recipe({**RECIPE, "sweep": {**LOSS, **FACTOR}})["stages"][0]["loss"] == {"use": "ipo", "beta": 0.3}


@pytest.mark.parametrize("stage", ["dpo", "0"])
def test_an_override_that_the_sweep_undoes_is_refused(stage: str) -> None:
    with pytest.raises(RecipeError, match=rf"^stages.{stage}.loss.beta=0.7 \(command line\): .*: {USELESS}"):
        check_recipe({**RECIPE, "sweep": FACTOR}, [f"stages.{stage}.loss.beta=0.7"])
    check_recipe({**RECIPE, "sweep": FACTOR}, ["stages.dpo.loss=ipo", "seeds=[1, 2]"])
