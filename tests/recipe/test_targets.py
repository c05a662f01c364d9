"""Modules that an adapter names and the base has not are found by `rlhf check`, from the configuration alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.errors import RecipeError
from rlhf_plugins.recipe.check import check_recipe
from rlhf_plugins.testing import tiny_base


def faults(modules: Any, base: str = "sandbox", option: str = "target_modules", stage: str = "sft") -> list[str]:
    """What the check says of a recipe whose adapter has these target modules."""
    try:
        check_recipe({"base": base, "adapter": {option: modules}, "data": "sandbox", "stages": [stage]})
    except RecipeError as error:
        return [f"{fault.path}: {fault.message}" for fault in error.faults]
    return []


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            ["v_proj", "q_prj"],
            "adapter.target_modules.1: 'q_prj' matches no module of LlamaForCausalLM (did you mean q_proj?",
        ),
        (
            "all_linear",
            "adapter.target_modules: 'all_linear' matches no module of LlamaForCausalLM (did you mean all-linear?",
        ),
        ("q_proj", "; as text it is a pattern of whole names: write [q_proj]"),
        ("*q_proj", "adapter.target_modules: '*q_proj' is no pattern: nothing to repeat"),
    ],
)
def test_modules_that_the_base_has_not_are_named_with_the_nearest(modules: Any, message: str) -> None:
    (found,) = faults(modules)
    assert message in found


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            ["v_proj", "q_prj"],
            "adapter.exclude_modules.1: 'q_prj' matches no module of LlamaForCausalLM (did you mean q_",
        ),
        (
            ["mlp"],
            "adapter.exclude_modules.0: 'mlp' matches no module of LlamaForCausalLM",
        ),  # PEFT excludes layers alone
        ("q_proj", "; as text it is a pattern of whole names: write [q_proj]"),
    ],
)
def test_excluded_modules_are_looked_up_too(modules: Any, message: str) -> None:
    (found,) = faults(modules, option="exclude_modules")
    assert message in found
    assert not faults(["q_proj", "layers.0.mlp.up_proj"], option="exclude_modules")


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "embed_tokens"], ".*_proj"])
def test_modules_that_are_there_are_let_through(modules: Any) -> None:
    assert faults(modules) == []


@pytest.mark.parametrize("stage", ["sft", "preference", "online"])
def test_the_output_layer_is_refused_where_no_adapter_on_it_would_learn(stage: str) -> None:
    (found,) = [one for one in faults(["q_proj", "lm_head"], stage=stage) if "lm_head" in one]
    assert found.startswith(
        "stages.0: adapter.target_modules: lm_head: TRL computes log-probabilities from the weights"
    )
    assert faults(["q_proj", "lm_head"], stage="reward_model") == []


def test_each_base_is_asked_for_its_own_modules(tmp_path: Path) -> None:
    """Also where another one was asked before, whose modules are kept."""
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2/config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 1, "n_embd": 12}))
    bases = "sandbox", str(tmp_path / "gpt2"), tiny_base(tmp_path / "llama").path
    known = {name: [base for base in bases if not faults([name], base)] for name in ("q_proj", "c_attn")}
    assert known == {"q_proj": [bases[0], bases[2]], "c_attn": [bases[1]]}


def test_a_base_whose_configuration_says_nothing_is_left_to_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "none that is known"}))
    assert faults(["q_prj"], str(tmp_path)) == faults(["q_prj"], "an/unknown-model") == []
