"""What is random in a model's training is disabled or named before online training, where ratios start at 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.testing import tiny_base
from rlhf_plugins.trainers.ppo.dropout import dropout, random_router, without_dropout

EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
RANDOM: list[tuple[str, dict[str, Any], str]] = [
    ("mixtral", {**EXPERTS, "router_jitter_noise": 0.3}, "model.layers.0.mlp.jitter_noise is 0.3"),
    ("llama", {"attention_dropout": 0.2}, "model.layers.0.self_attn.attention_dropout is 0.2"),
    ("gpt2", {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.4}, "transformer.h.0.attn.resid_dropout is 0.4"),
]


def apart(model: Any) -> float:
    """How far two passes of a training are apart."""
    ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        return float((model.train()(ids).logits - model(ids).logits).abs().max())


@pytest.mark.parametrize(("architecture", "options", "message"), RANDOM, ids=lambda each: str(each)[:8])
def test_two_passes_agree_once_it_is_disabled(
    tmp_path: Path, architecture: str, options: dict[str, Any], message: str
) -> None:
    model = load_causal(tiny_base(tmp_path, architecture, **options))
    assert (dropout(model), random_router(model), apart(model) > 0) == (message, None, True)
    without_dropout(model)
    assert (dropout(model), apart(model)) == (None, 0.0)


def test_a_router_that_draws_experts_is_named(tmp_path: Path) -> None:
    model = load_causal(tiny_base(tmp_path, "phimoe", **EXPERTS, router_jitter_noise=0.5))
    without_dropout(model)
    assert (random_router(model), apart(model) > 0) == ("PhimoeTopKRouter", True)
    assert random_router(load_causal(tiny_base(tmp_path, "mixtral", **EXPERTS))) is None
