"""Rotations without copies are the model's own, gradients too, and leave alone what they do not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.cohere import modeling_cohere
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama

from rlhf_plugins.engine.cpu.rotation import NAME, _agrees, in_halves, rotating

LLAMA = modeling_llama.apply_rotary_pos_emb
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def told(rotate: Any, shapes: tuple[tuple[int, ...], ...] = ((2, 4, 3, 8), (2, 2, 3, 8))) -> list[Tensor]:
    """Rotated queries and keys, and the gradients of both."""
    torch.manual_seed(0)
    q, k = (torch.randn(shape, requires_grad=True) for shape in shapes)
    cos, sin = torch.randn(2, *(shapes[0][0], shapes[0][2], shapes[0][3]))
    rotated = rotate(q, k, cos, sin)
    return [*rotated, *torch.autograd.grad(sum((r * r.detach().cos()).sum() for r in rotated), [q, k])]


def test_worked_by_hand() -> None:
    q = torch.tensor([[[[3.0, 4.0]]]], requires_grad=True)
    cos, sin = torch.tensor([[[0.6, 0.6]]]), torch.tensor([[[0.8, 0.8]]])
    turned, _ = rotating(LLAMA)(q, q, cos, sin)
    torch.testing.assert_close(turned, torch.tensor([[[[1.8 - 3.2, 2.4 + 2.4]]]]))
    turned[..., 0].sum().backward()
    torch.testing.assert_close(q.grad, torch.tensor([[[[0.6, -0.8]]]]))


def test_they_are_the_models_gradients_too() -> None:
    torch.testing.assert_close(told(rotating(LLAMA)), told(LLAMA))


def test_what_is_not_known_is_the_models() -> None:
    def own(*given: Any, **_: Any) -> Any:
        return "own"

    rotate = rotating(own)
    q, angles = torch.randn(1, 2, 3, 8), torch.randn(1, 3, 8)
    assert rotate(q.bfloat16(), q, angles, angles) == "own"
    assert rotate(q, q, angles[..., :4], angles[..., :4]) == "own"
    assert rotate(q, q, angles, angles) != "own"


@pytest.mark.parametrize("other", [modeling_cohere, modeling_glm], ids=["cohere", "glm"])
def test_neighbours_that_are_rotated_by_one_another_are_told_apart(other: Any) -> None:
    assert _agrees(LLAMA)
    assert not _agrees(getattr(other, NAME))


def alone(q: Tensor, k: Any = None, cos: Any = None, sin: Any = None, unsqueeze_dim: int = 1) -> Any:
    return LLAMA(q, q, cos, sin)[0] if k is None else LLAMA(q, k, cos, sin, unsqueeze_dim)


def placed(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Any = None, unsqueeze_dim: int = 1) -> Any:
    return LLAMA(q, k, cos, sin, unsqueeze_dim)


@pytest.mark.parametrize("other", [alone, placed], ids=["queries alone", "with positions"])
def test_a_rotation_that_is_called_otherwise_is_left_alone(other: Any) -> None:
    assert not _agrees(other)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "mixtral", "cohere", "gpt2"])
def test_a_model_says_what_it_said(
    causal: Callable[..., Any], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = causal(architecture)
    monkeypatch.setattr("rlhf_plugins.engine.loading.in_halves", lambda model: model)
    torch.testing.assert_close(found(IDS).logits, causal(architecture)(IDS).logits, rtol=1e-5, atol=1e-5)


def test_the_models_file_is_left_alone(causal: Callable[..., Any]) -> None:
    model = causal()
    layer = model.model.layers[0].self_attn
    assert type(layer) is not modeling_llama.LlamaAttention
    assert isinstance(layer, modeling_llama.LlamaAttention)
    assert modeling_llama.apply_rotary_pos_emb is LLAMA
    kind = type(layer)
    assert type(in_halves(model).model.layers[0].self_attn) is kind
