"""Encoders as trunks: what they are given is what transformers gives them, and padding never changes a score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.data.batches.tokens import encode
from rlhf_plugins.engine.forward import is_causal
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.weights.loading import load_tokenizer, load_trunk
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_base, tiny_encoder, tiny_pairs

ENCODERS = ["bert", "roberta", "distilbert", "electra"]


def scored(base: Base, model: RewardModel, rows: list[tuple[str, str]]) -> list[float]:
    tokenizer = load_tokenizer(base)
    ids = [encode(tokenizer, prompt, response) for prompt, response in rows]
    prompts, responses = map(list, zip(*rows, strict=True))
    return model.score(Samples(prompts, responses, *map(list, zip(*ids, strict=True))), tokenizer.pad_token_id)


def by_transformers(base: Base, model: Any, prompt: str, response: str) -> float:
    """One pair of texts alone, by the book."""
    tokenizer = load_tokenizer(base)
    types = getattr(model.config, "type_vocab_size", 1) > 1
    inputs = tokenizer(prompt, response, return_tensors="pt", return_token_type_ids=types)
    with torch.no_grad():
        return float(model.head(model.trunk(**inputs).last_hidden_state.mean(1)).reward)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoder_scores_as_transformers_runs_it(tmp_path: Path, architecture: str) -> None:
    base = tiny_encoder(tmp_path, architecture)
    model = RewardModel(load_trunk(base), component("pooling", "mean"), component("reward_head", "scalar")).eval()
    rows = [(pair.prompt, str(response)) for pair in tiny_pairs(12) for response in pair.responses]
    alone = [by_transformers(base, model, str(prompt), response) for prompt, response in rows]
    assert scored(base, model, [(str(p), r) for p, r in rows]) == pytest.approx(alone, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_it_is_known_to_read_in_both_directions(tmp_path: Path, architecture: str) -> None:
    trunk = load_trunk(tiny_encoder(tmp_path, architecture))
    assert not is_causal(trunk)
    assert layout_of(trunk) is Layout.SEPARATE


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_a_decoder_is_known_not_to(tmp_path: Path, architecture: str) -> None:
    assert is_causal(load_trunk(tiny_base(tmp_path, architecture)))
