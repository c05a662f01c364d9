"""What samples says how likely each of its tokens was, in our loop of generation and in transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.engine.decoding import own_decoding_loop
from rlhf_plugins.engine.sampler_log_probs import noted_log_probs
from rlhf_plugins.engine.weights.loading import load_causal, with_adapter
from rlhf_plugins.testing import tiny_base

PROMPT = torch.tensor([[5, 6, 7], [8, 9, 4]])


def policy(folder: Path) -> Any:
    return with_adapter(load_causal(tiny_base(folder)), Adapter(r=2), "CAUSAL_LM").eval()


def sampled(model: Any, **options: Any) -> torch.Tensor:
    """The ids of 4 tokens behind each prompt."""
    torch.manual_seed(0)
    config = GenerationConfig(do_sample=True, max_new_tokens=4, min_new_tokens=4, pad_token_id=0, **options)
    made: torch.Tensor = model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), generation_config=config)
    return made


@pytest.mark.parametrize("loop", [own_decoding_loop, None], ids=["ours", "transformers"])
def test_they_are_the_models_at_the_temperature(tmp_path: Path, loop: Callable[[Any], Any] | None) -> None:
    model = policy(tmp_path)
    with noted_log_probs(model, 0.5) as noted:
        if loop is None:
            ids = sampled(model, temperature=0.5, top_k=3)
        else:
            with loop(model):
                ids = sampled(model, temperature=0.5, top_k=3)
    with torch.no_grad():
        expected = (model(ids).logits[:, 2:-1] / 0.5).log_softmax(-1).gather(2, ids[:, 3:, None]).squeeze(2)
    assert torch.allclose(torch.tensor(noted), expected, atol=1e-5)


def test_a_hook_that_changes_the_logits_is_heard(tmp_path: Path) -> None:
    model = policy(tmp_path)

    def one_token(_: Any, __: Any, output: Any) -> Any:
        output.logits = torch.full_like(output.logits, -1e4).index_fill(2, torch.tensor([5, 6]), 0.0)
        return output

    model.get_base_model().register_forward_hook(one_token)
    with noted_log_probs(model, 1.0) as noted:
        sampled(model)
    assert torch.allclose(torch.tensor(noted), torch.tensor(0.5).log())


def full() -> Callable[..., None]:
    """Memory runs out at the third token."""
    calls = count()

    def hook(*_: Any) -> None:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return hook


def test_calls_follow_one_another_and_one_that_fails_leaves_nothing(tmp_path: Path) -> None:
    model = policy(tmp_path)
    with noted_log_probs(model, 1.0) as noted:
        sampled(model)
        first = list(noted)
        failing = model.get_base_model().lm_head.register_forward_hook(full())
        with pytest.raises(torch.OutOfMemoryError):
            sampled(model)
        failing.remove()
        sampled(model)
    assert noted == first * 2
    assert "generate" not in vars(model)
    assert not model.get_base_model()._forward_hooks
