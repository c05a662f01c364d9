"""Recipes for cards of 8 to 24 GB: each resolves, says its forecast, and fits the card in its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlhf_plugins import check_recipe, estimate, run_recipe
from rlhf_plugins.forecast.cards import card
from rlhf_plugins.recipe.check import bundled, load_recipe
from rlhf_plugins.recipe.course import courses

LADDER = {name: file for name, file in bundled().items() if re.fullmatch(r".*_\d+gb", name)}
SMALL = ["base=sandbox", "data=sandbox", "data.prompts=24", "data.responses=2", "data.pairs=1"]
RATED = ["base=sandbox", "data=sandbox", "data.prompts=24", "data.responses=3", "data.pairs=null"]


def said(file: Path) -> dict[str, float]:
    """GiB by stage, as the header says."""
    line = next(line for line in file.read_text().splitlines() if "Forecast in GiB: " in line)
    return {name: float(gib) for name, gib in re.findall(r"(\w+) (\d+\.\d)\b", line.partition("GiB: ")[2])}


def test_there_is_a_recipe_for_each_size_and_each_method() -> None:
    assert {name.rpartition("_")[2] for name in LADDER} == {"8gb", "12gb", "16gb", "24gb"}
    methods = {"reward", "reward_dimensions", "reward_ranking", "ensemble", "dpo", "ipo", "ppo", "rloo", "grpo"}
    assert methods | {"dpo_then_ppo", "sft_reward_ppo"} == {
        re.split("_(qwen|llama|gemma|smollm)", n)[0] for n in LADDER
    }


@pytest.mark.parametrize("name", LADDER)
def test_it_resolves_and_its_header_fits_the_card(name: str) -> None:
    stages = [stage.get("name") for stage in check_recipe(LADDER[name])["stages"]]
    found = said(LADDER[name])
    assert list(found) == stages
    assert max(found.values()) * 2**30 < 0.9 * card(name.rpartition("_")[2]).bytes
    first = LADDER[name].read_text().partition("\n")[0]
    assert first.endswith(f"rlhf run recipes/{name}.yaml")


@pytest.mark.parametrize("name", LADDER)
def test_its_header_says_the_cost_that_check_counts(name: str) -> None:
    line = LADDER[name].read_text().splitlines()[1]
    counted = [one.words for one in courses(load_recipe(LADDER[name])).values() if one]
    for samples in re.findall(r"([\d,]+) (?:episodes|responses) of up to", line):
        assert any(f", {samples} episodes," in words for words in counted)
    for rows in re.findall(r"Cost: ([\d,]+) .*steps", line):  # others go through the data once
        assert any(f", {rows} in all" in words for words in counted)


@pytest.mark.slow
@pytest.mark.parametrize("name", LADDER)
def test_its_forecast_is_what_its_header_says_and_under_its_card(name: str) -> None:
    found = estimate(LADDER[name], gpu=name.rpartition("_")[2])
    assert all(stage.verdict == "fits" for stage in found.stages)
    assert {s.name: round(s.peak_bytes / 2**30, 1) for s in found.stages} == pytest.approx(said(LADDER[name]), abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("name", LADDER)
def test_it_runs_two_steps_on_the_sandbox(name: str, tmp_path: Path) -> None:
    found = check_recipe(LADDER[name])
    plain = ["quantization=none"] if found["quantization"] != "none" else []
    plain += ["chat_template_kwargs={}"]
    steps = [f"stages.{s['name']}.trainer.max_steps=2" for s in found["stages"] if "trainer" in s]
    short = [f"stages.{s['name']}.trainer.max_completion_length=32" for s in found["stages"] if s["stage"] == "online"]
    short += [f"stages.{s['name']}.max_new_tokens=32" for s in found["stages"] if s["stage"] == "evaluate"]
    judged = [f"stages.{s['name']}.prompts=8" for s in found["stages"] if s["stage"] == "evaluate"]
    small = RATED if found["data"]["format"] in ("ratings", "rankings") else SMALL
    if "head" in found["stages"][0] and found["data"]["format"] == "ratings":
        plain.append("stages.reward_model.head={use: multi, dimensions: [helpful, concise]}")
    run = run_recipe(LADDER[name], [*small, *plain, *steps, *short, *judged, f"output_dir={tmp_path / 'run'}"], say=str)
    assert run.report.recipe["base"] == "sandbox"
