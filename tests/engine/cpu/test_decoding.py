"""The loop of our own gives what transformers' gives: the same greedy tokens, and samples of the same distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from rlhf_plugins.engine.cpu.decoding import decode, draw_tokens
from rlhf_plugins.engine.decoding import own_decoding_loop
from rlhf_plugins.errors import RunError

from ..conftest import EOS, PAD

Causal = Callable[..., Any]
IDS = torch.tensor([[PAD, PAD, 7, 8], [5, 6, 7, 8], [PAD, 9, 4, 3]])
GREEDY = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=PAD, eos_token_id=EOS)
SAMPLED = GenerationConfig(max_new_tokens=12, do_sample=True, top_k=0, pad_token_id=PAD, eos_token_id=EOS)


def inputs() -> dict[str, Any]:
    return {"input_ids": IDS, "attention_mask": (IDS != PAD).long()}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "gemma3_text", "mistral", "mamba", "bloom"])
def test_greedy_tokens_are_transformers(causal: Causal, architecture: str) -> None:
    model = causal(architecture)
    with torch.no_grad():
        expected = model.generate(**inputs(), generation_config=GREEDY)
        found = model.generate(**inputs(), generation_config=GREEDY, custom_generate=decode)
    assert torch.equal(found, expected)


def test_logits_are_processed_and_responses_end_as_asked(causal: Causal) -> None:
    config = GenerationConfig(**{**GREEDY.to_dict(), "min_new_tokens": 12, "suppress_tokens": [5, 6, 7]})
    model = causal()
    expected = model.generate(**inputs(), generation_config=config)
    with own_decoding_loop(model):
        found = model.generate(**inputs(), generation_config=config)
    assert found.shape == (3, IDS.shape[1] + 12)
    assert torch.equal(found, expected)


def test_after_eos_there_is_padding(causal: Causal) -> None:
    torch.manual_seed(0)
    with own_decoding_loop(model := causal()):
        found = model.generate(**inputs(), generation_config=SAMPLED, num_return_sequences=20)
    ended = [row.index(EOS) for row in found[:, IDS.shape[1] :].tolist() if EOS in row]
    rows = [row for row in found[:, IDS.shape[1] :].tolist() if EOS in row]
    assert len(ended) > 5
    assert all(set(row[end + 1 :]) <= {PAD} for row, end in zip(rows, ended, strict=True))


def test_what_the_loop_does_not_know_is_transformers(causal: Causal) -> None:
    model, beams = causal(), GenerationConfig(**{**GREEDY.to_dict(), "num_beams": 3})
    expected = model.generate(**inputs(), generation_config=beams)
    with own_decoding_loop(model):
        assert torch.equal(model.generate(**inputs(), generation_config=beams), expected)
    assert "generate" not in vars(model)


def test_tokens_come_as_often_as_they_are_likely() -> None:
    torch.manual_seed(0)
    probabilities = torch.tensor([0.05, 0.0, 0.6, 0.35, 0.0])
    drawn = draw_tokens(probabilities.log().expand(20_000, -1))
    shares = torch.bincount(drawn, minlength=5) / len(drawn)
    assert shares[[1, 4]].sum() == 0
    torch.testing.assert_close(shares, probabilities, rtol=0, atol=4 * 0.5 / 20_000**0.5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(2, 30), st.integers(0, 2**31))
def test_a_token_that_cannot_be_is_never_drawn(rows: int, words: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.rand(rows, words, generator=generator) < 0.5
    allowed[:, int(torch.randint(words, (1,), generator=generator))] = True
    scores = (10 * torch.randn(rows, words, generator=generator)).masked_fill(~allowed, -torch.inf)
    assert allowed[torch.arange(rows), draw_tokens(scores)].all()


@pytest.mark.parametrize("scores", [[float("nan"), 1.0], [-torch.inf, -torch.inf]])
def test_probabilities_that_are_not_finite_are_refused(scores: list[float]) -> None:
    with pytest.raises(RunError, match="no longer finite"):
        draw_tokens(torch.tensor([[0.0, 1.0], scores]))
