"""Rotations in half precision are nearer to exact numbers than the models' own, in fewer launches."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from launches import Launches
from torch import Tensor
from transformers.models.cohere import modeling_cohere
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3

from rlhf_plugins.engine import set_engine
from rlhf_plugins.engine.cpu import rotation as single
from rlhf_plugins.engine.cpu.rotation import NAME, fused_rotation
from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.half.rotation import HALF, fuse_half_rotations

HALVES = [torch.bfloat16, torch.float16]
LLAMA = modeling_llama.apply_rotary_pos_emb


def computed(rotate: Any, dtype: torch.dtype, start: torch.dtype) -> list[Tensor]:
    """Queries and keys that are rotated in one precision, and their gradients, from the numbers of another."""
    torch.manual_seed(0)
    q, k = (torch.randn(2, heads, 9, 16).to(start).to(dtype).requires_grad_() for heads in (4, 2))
    angles = torch.randn(2, 9, 8).repeat(1, 1, 2)
    found = rotate(q, k, angles.cos().to(start).to(dtype), angles.sin().to(start).to(dtype))
    towards = [torch.randn(each.shape).to(start).to(dtype) for each in found]
    return [each.detach() for each in (*found, *torch.autograd.grad(found, (q, k), towards))]


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("module", [modeling_llama, modeling_qwen3])
def test_it_is_nearer_to_exact_numbers_than_the_models(module: ModuleType, half: torch.dtype) -> None:
    own = getattr(module, NAME)
    fused = fused_rotation({NAME: own}, HALF)
    exact = computed(own, torch.float64, half)
    for mine, theirs, right in zip(computed(fused, half, half), computed(own, half, half), exact, strict=True):
        assert mine.dtype == half
        assert (mine.double() - right).norm() < 0.95 * (theirs.double() - right).norm()


def launched(rotate: Any) -> int:
    with Launches() as found:
        computed(rotate, torch.bfloat16, torch.bfloat16)
    return found.all


def test_it_is_three_launches_each_way_for_queries_and_for_keys() -> None:
    fused = fused_rotation({NAME: LLAMA}, HALF)
    launched(fused)  # the trial
    assert launched(fused) - launched(lambda q, k, *_: (q * 1, k * 1)) == 12 - 4


def test_other_formulas_precisions_and_the_plain_engine_are_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohere rotates neighbours, not halves."""

    def same(own: Any, dtype: torch.dtype) -> bool:
        both = (computed(rotate, dtype, torch.bfloat16) for rotate in (fused_rotation({NAME: own}, HALF), own))
        return all(torch.equal(*pair) for pair in zip(*both, strict=True))

    assert same(modeling_cohere.apply_rotary_pos_emb, torch.bfloat16)
    assert not same(LLAMA, torch.bfloat16)
    monkeypatch.setattr(single, "_rotated", lambda *_: 1 // 0)
    assert same(LLAMA, torch.float32)
    with set_engine("plain"):
        assert same(LLAMA, torch.bfloat16)


@pytest.mark.parametrize(("by", "passes"), [(1.0, True), (1.02, False)])
def test_a_device_that_disagrees_is_left_to_the_model(monkeypatch: pytest.MonkeyPatch, by: float, passes: bool) -> None:
    right = single._Rotation.backward

    def backward(ctx: Any, grad: Tensor) -> Any:
        return by * right(ctx, grad)[0], None, None

    monkeypatch.setattr(single._Rotation, "backward", staticmethod(backward))
    computed(fused_rotation({NAME: LLAMA}, HALF), torch.bfloat16, torch.bfloat16)
    assert list(trials._PASSED.values()) == [passes]


def test_layers_of_a_model_in_half_precision_are_replaced_once(half: Callable[..., Any]) -> None:
    layer = half().get_base_model().model.layers[0].self_attn
    assert type(layer) is not modeling_llama.LlamaAttention
    assert isinstance(layer, modeling_llama.LlamaAttention)
    kind, single_model = type(layer), half().get_base_model().float()
    assert type(fuse_half_rotations(half().get_base_model()).model.layers[0].self_attn) is kind
    assert fuse_half_rotations(single_model) is single_model
