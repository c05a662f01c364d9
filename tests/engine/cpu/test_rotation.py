"""Rotations without copies are the model's own, gradients too, and leave alone what they do not know."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.cohere import modeling_cohere
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaAttention

from rlhf_plugins.engine import set_engine
from rlhf_plugins.engine.cpu.rotation import NAME, SINGLE, agrees, fuse_rotations, fused_rotation

Causal = Callable[..., Any]
LLAMA = modeling_llama.apply_rotary_pos_emb
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def output_and_grads(rotate: Any, shapes: tuple[tuple[int, ...], ...] = ((2, 4, 3, 8), (2, 2, 3, 8))) -> list[Tensor]:
    """Rotated queries and keys, and the gradients of both."""
    torch.manual_seed(0)
    q, k = (torch.randn(shape, requires_grad=True) for shape in shapes)
    cos, sin = torch.randn(2, *(shapes[0][0], shapes[0][2], shapes[0][3]))
    rotated = rotate(q, k, cos, sin)
    return [*rotated, *torch.autograd.grad(sum((r * r.detach().cos()).sum() for r in rotated), [q, k])]


def test_worked_by_hand() -> None:
    q = torch.tensor([[[[3.0, 4.0]]]], requires_grad=True)
    cos, sin = torch.tensor([[[0.6, 0.6]]]), torch.tensor([[[0.8, 0.8]]])
    turned, _ = fused_rotation({NAME: LLAMA}, SINGLE)(q, q, cos, sin)
    torch.testing.assert_close(turned, torch.tensor([[[[1.8 - 3.2, 2.4 + 2.4]]]]))
    turned[..., 0].sum().backward()
    torch.testing.assert_close(q.grad, torch.tensor([[[[0.6, -0.8]]]]))


def test_they_are_the_models_gradients_too() -> None:
    torch.testing.assert_close(output_and_grads(fused_rotation({NAME: LLAMA}, SINGLE)), output_and_grads(LLAMA))


def test_what_is_not_known_is_the_models() -> None:
    calls: list[Tensor] = []

    def own(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        calls.append(q)
        return LLAMA(q, k, cos, sin, unsqueeze_dim)

    assert agrees(own)
    rotate, q, angles = fused_rotation({NAME: own}, SINGLE), torch.randn(1, 2, 3, 8), torch.randn(1, 3, 8)
    calls.clear()
    rotate(q, q, angles, angles)
    assert not calls
    for other in (q.bfloat16(), q.to("meta")):
        rotate(other, other, angles.to(other), angles.to(other))
    assert len(calls) == 2


@pytest.mark.parametrize("other", [modeling_cohere, modeling_glm], ids=["cohere", "glm"])
def test_a_rotation_of_neighbours_by_one_another_is_left_alone(other: Any) -> None:
    assert agrees(LLAMA)
    assert not agrees(getattr(other, NAME))


def alone(q: Tensor, k: Any = None, cos: Any = None, sin: Any = None, unsqueeze_dim: int = 1) -> Any:
    return LLAMA(q, q, cos, sin)[0] if k is None else LLAMA(q, k, cos, sin, unsqueeze_dim)


def placed(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Any = None, unsqueeze_dim: int = 1) -> Any:
    return LLAMA(q, k, cos, sin, unsqueeze_dim)


@pytest.mark.parametrize("other", [alone, placed], ids=["queries alone", "with positions"])
def test_a_rotation_that_is_called_otherwise_is_left_alone(other: Any) -> None:
    assert not agrees(other)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "mixtral", "cohere", "gpt2"])
def test_a_model_says_what_it_said(causal: Causal, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = causal(architecture)
    monkeypatch.setattr("rlhf_plugins.engine.weights.loading.fuse_rotations", lambda model: model)
    torch.testing.assert_close(found(IDS).logits, causal(architecture)(IDS).logits, rtol=1e-5, atol=1e-5)


def test_the_models_file_is_left_alone(causal: Causal) -> None:
    model = causal()
    layer = model.model.layers[0].self_attn
    assert type(layer) is not LlamaAttention
    assert isinstance(layer, LlamaAttention)
    assert modeling_llama.apply_rotary_pos_emb is LLAMA
    kind = type(layer)
    assert type(fuse_rotations(model).model.layers[0].self_attn) is kind


def doubled(*args: Any, **_: Any) -> tuple[Tensor, ...]:
    return tuple(2 * rotated for rotated in LLAMA(*args[:4]))


def silent_attention(_: Any, query: Tensor, *__: Any, **___: Any) -> tuple[Tensor, None]:
    return 0 * query.transpose(1, 2), None


def silent(self: Any, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
    return 0 * hidden_states, None


@pytest.mark.parametrize(
    ("owner", "name", "other"),
    [
        (modeling_llama, NAME, doubled),
        (modeling_llama, "ALL_ATTENTION_FUNCTIONS", SimpleNamespace(get_interface=lambda *_: silent_attention)),
        (LlamaAttention, "forward", silent),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_replaced_later_is_used(
    causal: Causal, owner: Any, name: str, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = causal()
    with set_engine("plain"):
        plain = causal()
    before = fused(IDS).logits
    monkeypatch.setattr(owner, name, other)
    torch.testing.assert_close(fused(IDS).logits, plain(IDS).logits, rtol=1e-5, atol=1e-5)
    assert (fused(IDS).logits - before).abs().max() > 0.1
