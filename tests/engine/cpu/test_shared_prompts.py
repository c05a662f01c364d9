"""A prompt of several rows is computed once, and the same tokens are drawn as where each row computes its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from rlhf_plugins.engine.cpu import decoding
from rlhf_plugins.engine.decoding import own_decoding_loop

from ..conftest import EOS, PAD

Causal = Callable[..., Any]
IDS = torch.tensor([[PAD, PAD, 7, 8], [5, 6, 7, 8], [PAD, PAD, 7, 8], [5, 6, 7, 8], [PAD, 9, 4, 3]])
SAMPLED = GenerationConfig(max_new_tokens=12, do_sample=True, top_k=0, pad_token_id=PAD, eos_token_id=EOS)


def sampled(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """What is drawn, and the tokens of each pass."""
    passes: list[int] = []

    def note(_: Any, given: Any, output: Any) -> None:
        passes.append(output.shape[0] * output.shape[1])

    hook = model.get_input_embeddings().register_forward_hook(note)
    torch.manual_seed(0)
    with torch.no_grad(), own_decoding_loop(model):
        found = model.generate(input_ids=ids, attention_mask=(ids != PAD).long(), generation_config=SAMPLED)
    hook.remove()
    return found, passes


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "mistral", "bloom"])
def test_the_same_tokens_of_fewer_computed_ones(
    causal: Causal, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """Two prompts twice and a third once: 3 x 3 tokens and the last ones of 5 rows, in place of 5 x 4."""
    model = causal(architecture)
    found, passes = sampled(model, IDS)
    monkeypatch.setattr(decoding, "compute_shared", lambda *_: False)
    expected, before = sampled(model, IDS)
    assert torch.equal(found, expected)
    assert (passes[:2], before[:1]) == ([9, 5], [20])
    assert passes[2:] == before[1:]


@pytest.mark.parametrize(
    ("architecture", "ids"),
    [("llama", IDS[[0, 1, 4]]), ("llama", IDS[[0, 2], 3:]), ("gemma2", IDS), ("mamba", IDS)],
    ids=["other prompts", "one token", "a window", "no keys"],
)
def test_elsewhere_each_row_computes_its_own(causal: Causal, architecture: str, ids: torch.Tensor) -> None:
    assert sampled(causal(architecture), ids)[1][0] == ids.numel()
