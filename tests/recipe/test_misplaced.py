"""A word in the wrong place of a recipe is answered by the right one."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from rlhf_plugins.errors import RecipeError
from rlhf_plugins.recipe.check import check_recipe
from rlhf_plugins.recipe.option_hints import OTHERS
from rlhf_plugins.registry.registry import registry

RECIPE = {"base": "sandbox", "data": "sandbox"}


def fault(*overrides: str, **more: Any) -> str:
    """The one fault of a recipe with these changes."""
    stages = [{"stage": "reward_model", "name": "judge"}, "preference", "evaluate"]
    with pytest.raises(RecipeError) as caught:
        check_recipe({"base": "sandbox", "data": "sandbox", "stages": stages, **more}, overrides)
    (found,) = caught.value.faults
    return f"{found.path}: {found.message}"


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("stages.preference.beta=0.2", "stages.1.beta: unknown option (did you mean loss.beta? known: budget,"),
        (
            "stages.judge.learning_rate=1e-4",
            "stages.0.learning_rate: unknown option (did you mean trainer.learning_rate?",
        ),
        ("learning_rate=1e-4", "learning_rate: unknown option (did you mean stages.0.trainer.learning_rate? known: ad"),
        ("r=8", "r: unknown option (did you mean adapter.r? known: adapter, "),
        ("sed=1", "sed: unknown option (did you mean seed? known: adapter, "),
    ],
)
def test_an_option_of_an_inner_block_is_named_with_its_path(override: str, answer: str) -> None:
    assert fault(override).startswith(answer)


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("stages.evaluate.reward=judge", "; of a stage it is {use: model, stage: judge}"),
        ("stages.evaluate.reward=jugde", "; of a stage it is {use: model, stage: judge}"),
        ("stages.preference.data=judge", "; of a stage it is {format: stage, stage: judge}"),
        ("data=rows.jsonl", "; a file is the source of a format: {format: NAME, source: rows.jsonl}"),
    ],
)
def test_a_stage_or_a_file_in_the_place_of_a_component_is_answered_by_how_it_is_written(
    override: str, answer: str
) -> None:
    assert fault(override).endswith(answer)


def test_a_block_that_refuses_its_options_is_a_fault_of_the_recipe() -> None:
    assert fault(checkpoint={"every": "5minutes"}) == (
        "checkpoint: every: '5minutes' is no interval; write one such as `5 min`, `30 s` or `100 steps`"
    )


@pytest.mark.parametrize("name", ["rank", "lora_r", "lora_rank"])
def test_the_rank_of_an_adapter_is_r(name: str) -> None:
    known = (
        "known: exclude_modules, init_lora_weights, lora_alpha, lora_dropout, r, target_modules, use_dora, use_rslora"
    )
    assert fault(f"adapter.{name}=8") == f"adapter.{name}: unknown option (did you mean r? {known})"


@pytest.mark.parametrize("name", OTHERS)
def test_an_option_of_other_tools_is_answered_by_what_does_it_here(name: str) -> None:
    places = ["", "stages.preference.", "stages.preference.trainer."]
    found = [fault(f"{place}{name}=0.1") for place in places]
    assert [one.endswith(OTHERS[name]) for one in found] == [True] * len(found)
    for written in map(yaml.safe_load, re.findall("`([a-z]+: .*)`", OTHERS[name])):
        top = {key: value for key, value in written.items() if key not in ("trainer", "base", "data")}
        own = {key: value for key, value in written.items() if key == "trainer"}
        check_recipe({**RECIPE, **top, "stages": [{"stage": "preference", **own}]})


@pytest.mark.parametrize("place", ["stages.preference.", "stages.preference.trainer."])
def test_an_option_of_the_top_or_of_the_adapter_is_answered_by_its_place(place: str) -> None:
    assert fault(f"{place}max_prompt_length=10").endswith(": write `max_prompt_length:` at the top of the recipe")
    assert fault(f"{place}lora_alpha=8").endswith(": write `adapter: {lora_alpha: ...}` at the top of the recipe")


HINTS = [
    (stage, name, said)
    for stage in ("preference", "reward_model", "online")
    for name, said in registry().get("stage", stage).of_trl.items()
]


@pytest.mark.parametrize(("stage", "name", "said"), HINTS, ids=lambda value: str(value)[:20])
def test_an_option_of_trls_is_answered_by_what_does_it_here(stage: str, name: str, said: str) -> None:
    for inside, begins in (("", f"unknown option .*; TRL's {name} "), ("trainer.", "(unknown option of .*)?")):
        with pytest.raises(RecipeError) as caught:
            check_recipe(
                {**RECIPE, "stages": ["reward_model", {"stage": stage, "name": "own"}]},
                [f"stages.own.{inside}{name}=1"],
            )
        assert re.search(f"stages.1.{inside}{name}: {begins}", str(caught.value))
        assert (said in str(caught.value)) == (not inside or name in registry().get("stage", stage).reserved)


@pytest.mark.parametrize(("stage", "name", "said"), HINTS, ids=lambda value: str(value)[:20])
def test_what_is_written_in_its_place_is_sound(stage: str, name: str, said: str) -> None:
    written = [yaml.safe_load(each) for each in re.findall("`([a-z_]+: [^`]+)`", said) if "cdpo" not in each]
    for each in written:
        check_recipe({**RECIPE, "stages": ["reward_model", {"stage": stage, "name": "own", **each}]})
    assert written or name == "label_smoothing"
