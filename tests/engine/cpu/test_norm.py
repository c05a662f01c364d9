"""An RMS norm in few passes is the model's own, gradients too, and leaves alone what it does not know."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from rlhf_plugins.engine.cpu.norm import FusedRMSNorm, fuse_norms

WIDTH = 6


def norm(kind: Any = LlamaRMSNorm) -> Any:
    torch.manual_seed(0)
    made = kind(WIDTH, eps=1e-2).eval()
    nn.init.normal_(made.weight)
    return made


def output_and_grads(made: nn.Module, x: Tensor) -> list[Tensor]:
    """The output and the gradients of input and weight."""
    x = x.clone().requires_grad_()
    output = made(x)
    return [output, *torch.autograd.grad((output * output.detach().cos()).sum(), [x, made.weight])]


def test_worked_by_hand() -> None:
    made = fuse_norms(LlamaRMSNorm(2, eps=0.5).eval())
    assert isinstance(made, FusedRMSNorm)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([2.0, 1.0]))
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)  # mean of squares 2.5, and 0.5 make 3
    output = made(x)
    torch.testing.assert_close(output, torch.tensor([[2.0, 2.0]]) / 3**0.5)
    output[0, 0].backward()  # y = 2 a / sqrt((a^2 + b^2) / 2 + 0.5): dy/da = 2 / s - a^2 / s^3, dy/db = -a b / s^3
    torch.testing.assert_close(x.grad, torch.tensor([[2 / 3**0.5 - 1 / 3**1.5, -2 / 3**1.5]]))


@pytest.mark.parametrize("shape", [(4, WIDTH), (2, 3, WIDTH), (1, 1, WIDTH), (2, 3, 4, WIDTH)])
@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
def test_output_and_gradients_are_the_models(kind: Any, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    made = fuse_norms(norm(kind))
    assert isinstance(made, FusedRMSNorm)
    torch.testing.assert_close(output_and_grads(made, x), output_and_grads(norm(kind), x))


@pytest.mark.parametrize("rows", [5, 10_000])
def test_with_and_without_gradients_it_computes_the_same_bits(rows: int) -> None:
    made, x = fuse_norms(norm()), torch.randn(rows, WIDTH)
    with torch.no_grad():
        silent = made(x)
    assert torch.equal(silent, made(x))


def test_a_frozen_weight_gets_no_gradient() -> None:
    made, x = fuse_norms(norm()).requires_grad_(False), torch.randn(5, WIDTH, requires_grad=True)
    made(x).sum().backward()
    assert made.weight.grad is None
    assert x.grad is not None


def test_a_norm_that_computes_something_else_keeps_its_own_way() -> None:
    made = fuse_norms(norm(GemmaRMSNorm))  # x (1 + w)
    assert type(made) is GemmaRMSNorm


class GatedRMSNorm(LlamaRMSNorm):
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return gate * super().forward(x)


class PairedRMSNorm(LlamaRMSNorm):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


@pytest.mark.parametrize("kind", [GatedRMSNorm, PairedRMSNorm])
def test_a_norm_that_takes_or_gives_something_else_keeps_its_own_way(kind: Any) -> None:
    assert type(fuse_norms(norm(kind))) is kind


def test_other_precisions_are_the_models() -> None:
    made, x = fuse_norms(norm()), torch.randn(5, WIDTH).bfloat16()
    assert torch.equal(made(x), norm()(x))
    assert torch.equal(made.bfloat16()(x), norm().bfloat16()(x))
