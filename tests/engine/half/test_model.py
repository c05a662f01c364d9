"""Whole models in half precision: gradients with and without checkpointing, alone and beside others, and exact ones."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.engine import casts, set_engine
from rlhf_plugins.engine.backbone import active_adapter, add_adapter
from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.weights.loading import use_fast_paths

from ..conftest import batch_of, ragged
from ..test_backbone import shaken

ARCHITECTURES = ["llama", "qwen3", "gemma3_text"]
GROUPS = ragged()


def gradients(model: Any, groups: Any = GROUPS, adapter: str = "default") -> list[Tensor]:
    """Log-probabilities under autocast, and the gradients of an adapter."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16), active_adapter(model, adapter):
        logps = response_logps(model, batch_of(groups, Layout.ROWS)).logps
        logps.sum().backward()
    return [logps.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def exact(model: Any) -> list[Tensor]:
    """The same in float64, by the code of transformers and PEFT."""
    double = deepcopy(model).double()
    with set_engine("plain"):
        logps = response_logps(double, batch_of(GROUPS, Layout.ROWS)).logps
    logps.sum().backward()
    return [logps.detach(), *(p.grad.clone() for p in double.parameters() if p.grad is not None)]


def errors(model: Any, expected: list[Tensor]) -> Tensor:
    """Of log-probabilities and of all gradients: squares, relative to those of the expected numbers."""
    parts = [
        [tensors[0], torch.cat([each.flatten() for each in tensors[1:]])] for tensors in (gradients(model), expected)
    ]
    pairs = zip(*parts, strict=True)
    return torch.stack([((one - right).norm() / right.norm()).double() ** 2 for one, right in pairs])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_as_near_to_exact_numbers_as_the_layers_of_transformers_and_peft(
    half: Callable[..., Any], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several adapters; a model's own roundings are most of the error."""
    model, ours, theirs = half(architecture), torch.zeros(2), torch.zeros(2)
    for seed in range(6):
        torch.manual_seed(seed)
        for weights in (weights for weights in model.parameters() if weights.requires_grad):
            nn.init.normal_(weights, std=0.05)
        expected = exact(model)
        ours += errors(model, expected)
        with monkeypatch.context() as patch:
            patch.setattr(trials, "passes", lambda *_: False)
            patch.setattr(casts, "agree", lambda *_: False)
            theirs += errors(model, expected)
    assert bool((ours > 0).logical_and(ours < 1.3 * theirs).all())
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_with_and_without_checkpointing_are_the_same(half: Callable[..., Any], architecture: str) -> None:
    model = half(architecture)
    gradients(model)  # tries layouts
    expected = gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    found = gradients(model)
    assert len(found) == len(expected) > 8
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


def test_with_checkpointing_the_adapter_of_the_block_is_recomputed(half: Callable[..., Any]) -> None:
    model = half()
    other = add_adapter(model, Adapter(r=2))
    use_fast_paths(shaken(model))
    gradients(model)
    expected = gradients(model, adapter=other)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    found = gradients(model, adapter=other)
    assert len(found) == len(expected) > 8
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


def test_the_other_groups_of_a_batch_change_a_group_by_rounding_alone(half: Callable[..., Any]) -> None:
    model = half()
    gradients(model)
    alone, together = gradients(model, GROUPS[:1])[0], gradients(model)[0]
    rows, columns = alone.shape
    assert rows == len(GROUPS[0].branches) > 1
    within = batch_of(GROUPS[:1], Layout.ROWS).response_mask()
    difference = (alone - together[:rows, :columns]).masked_fill(~within, 0.0)
    assert float(difference.abs().max() / alone.abs().max()) < 2**-7
