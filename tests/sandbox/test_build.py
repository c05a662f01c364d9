"""The build: a few steps of it make a folder that loads, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_plugins.sandbox import POLICIES
from rlhf_plugins.sandbox.build import SHIPPED, Pretraining, build, make_tokenizer, pretrain

SHORT = Pretraining(steps=6, batch_size=8)


@pytest.mark.slow
def test_a_built_folder_loads_and_is_repeatable(tmp_path: Path) -> None:
    build(tmp_path, SHORT)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    again = pretrain(make_tokenizer(), SHORT)
    for name, weight in loaded.state_dict().items():
        torch.testing.assert_close(weight, again.state_dict()[name])
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "<eos>"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_tokenizer_is_what_the_build_makes(name: str) -> None:
    made = make_tokenizer(SHIPPED[name].corpus)
    assert AutoTokenizer.from_pretrained(POLICIES[name]).get_vocab() == made.get_vocab()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_model_has_the_architecture_that_the_build_makes(name: str) -> None:
    shipped = AutoModelForCausalLM.from_pretrained(POLICIES[name])
    made = pretrain(make_tokenizer(SHIPPED[name].corpus), replace(SHIPPED[name], steps=1, batch_size=2))
    shapes = [{name: weight.shape for name, weight in model.state_dict().items()} for model in (shipped, made)]
    assert shapes[0] == shapes[1]
