"""Gated blocks by one kernel each way: as near to exact numbers as the models' own, and others are left alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from gpu_kernels import as_with_liger
from launches import Launches
from torch import Tensor, nn
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP
from transformers.models.llama.modeling_llama import LlamaMLP

from rlhf_plugins.engine import pretending, set_engine
from rlhf_plugins.engine.half import gated as blocks
from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.half.gated import HalfGatedBlock, Kernel, fuse_half_gated, gated, liger

from .test_model import gradients
from .test_norm import errors

HALVES = [torch.bfloat16, torch.float16]
WIDTH, INNER = 16, 40
CONFIGS = {LlamaMLP: LlamaConfig, Gemma3MLP: Gemma3TextConfig}


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Liger, with a kernel in plain torch in place of each of its own."""
    liger.cache_clear()
    with as_with_liger(monkeypatch):
        yield
    liger.cache_clear()


def block(kind: Any = LlamaMLP, half: torch.dtype = torch.bfloat16) -> Any:
    torch.manual_seed(0)
    config = CONFIGS[LlamaMLP if issubclass(kind, LlamaMLP) else Gemma3MLP]
    made = kind(config(hidden_size=WIDTH, intermediate_size=INNER, num_attention_heads=2))
    for weights in made.parameters():
        nn.init.normal_(weights, std=0.5)
    return made.to(half).requires_grad_(False)


def fused(made: Any) -> Any:
    stack: Any = nn.ModuleList([made])
    stack.dtype, stack.device = made.gate_proj.weight.dtype, made.gate_proj.weight.device
    return fuse_half_gated(stack)[0]


def computed(made: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output and the gradient of the input."""
    x = x.clone().requires_grad_()
    output = made(x)
    towards = torch.arange(output.numel()).sin().view(output.shape).to(x.dtype)
    return output.detach(), torch.autograd.grad(output, x, towards)[0]


def same(one: Any, other: Any, x: Tensor) -> bool:
    return all(torch.equal(*both) for both in zip(computed(one, x), computed(other, x), strict=True))


def test_worked_by_hand() -> None:
    """silu(0) = 0, its slope is 1/2; silu(x) and its slope are x and 1 where exp(-x) is 0 for a half."""
    gate, up = torch.tensor([[0.0, 64.0]]).bfloat16().requires_grad_(), torch.tensor([[2.0, -3.0]]).bfloat16()
    up.requires_grad_()
    output = gated(gate * 1, up * 1, liger("swiglu"))
    assert output.tolist() == [[0.0, -192.0]]
    output.backward(torch.tensor([[3.0, 2.0]]).bfloat16())
    assert gate.grad is not None
    assert up.grad is not None
    assert gate.grad.tolist() == [[3 * 0.5 * 2, 2 * 1 * -3]]
    assert up.grad.tolist() == [[0.0, 128.0]]


def test_kernels_are_given_what_is_contiguous() -> None:
    gate, up = (torch.randn(6, 5).bfloat16().requires_grad_() for _ in range(2))
    gated(gate.t(), up.t(), liger("swiglu")).sum().backward()
    expected = torch.autograd.grad((nn.functional.silu(gate) * up).sum(), (gate, up))
    torch.testing.assert_close((gate.grad, up.grad), expected, rtol=2**-6, atol=2**-8)


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("kind", [LlamaMLP, Gemma3MLP])
def test_it_is_as_near_to_exact_numbers_as_the_models(kind: Any, half: torch.dtype) -> None:
    x, own, ours = torch.randn(7, 40, WIDTH).to(half), block(kind, half), fused(block(kind, half))
    with torch.autocast("cpu", half):
        found, theirs = computed(ours, x), computed(own, x)
    assert isinstance(ours, HalfGatedBlock)
    assert list(trials._PASSED.values()) == [True]
    assert [each.dtype for each in found] == [half, half]
    exact = errors(found, computed(own.double(), x.double())), errors(theirs, computed(own.double(), x.double()))
    assert exact[0][0] == exact[1][0]
    assert exact[0][1] < exact[1][1]


def launched(made: Any, x: Tensor) -> Launches:
    computed(made, x)  # the trial
    with Launches() as found:
        computed(made, x)
    return found


def test_it_is_one_launch_each_way_in_place_of_two_and_three() -> None:
    x, number = torch.randn(8, WIDTH).bfloat16(), 8 * INNER * 2
    own, ours = launched(block(), x), launched(fused(block()), x)
    assert own.all - ours.all == 3
    assert own.bytes - ours.bytes == (2 + 3 + 3 + 3 + 3) * number - (3 + 5) * number


def kept(made: Any, x: Tensor) -> int:
    """Tensors of all tokens and the inner width that autograd keeps, the input of the last layer left out."""
    found = list[torch.Size]()
    made.down_proj = nn.Identity()
    with torch.autograd.graph.saved_tensors_hooks(lambda each: found.append(each.shape) or each, lambda each: each):
        made(x.clone().requires_grad_())
    return found.count(torch.Size([len(x), INNER]))


def test_it_keeps_gate_and_up_alone() -> None:
    x, ours = torch.randn(8, WIDTH).bfloat16(), fused(block())
    computed(ours, x)
    assert (kept(ours, x), kept(block(), x)) == (2, 3)


def test_a_second_backward_pass_is_refused_as_gradients_took_the_place_of_what_it_needs() -> None:
    x = torch.randn(8, WIDTH).bfloat16().requires_grad_()
    output = fused(block())(x).float().sum()
    output.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


WRONG: dict[str, Callable[[Kernel], Kernel]] = {
    "output": lambda right: right._replace(forward=lambda *given: 1.02 * right.forward(*given)),
    "gradient of the gate": lambda right: right._replace(
        backward=lambda *given: tuple(a * b for a, b in zip(right.backward(*given), (1.02, 1.0), strict=True))
    ),
    "gradient of up": lambda right: right._replace(
        backward=lambda *given: tuple(a * b for a, b in zip(right.backward(*given), (1.0, 1.02), strict=True))
    ),
    "no compiler": lambda right: right._replace(forward=lambda *_: {}["gcc"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_kernel_that_disagrees_or_fails_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    kernel, x = WRONG[wrong](liger("swiglu")), torch.randn(8, WIDTH).bfloat16()
    monkeypatch.setattr(blocks, "liger", lambda _: kernel)
    with caplog.at_level(logging.INFO):
        assert same(ours := fused(block()), block(), x)
        ours(x)
    assert caplog.messages == [
        "gated blocks in half precision: left to the model's own computation, since a trial failed; "
        "a forecast of memory that was made before counted on it"
    ]


def test_a_lack_of_memory_in_a_trial_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("full")

    kernel = liger("swiglu")
    monkeypatch.setattr(blocks, "liger", lambda _: kernel._replace(forward=full))
    with pytest.raises(torch.OutOfMemoryError):
        fused(block())(torch.randn(8, WIDTH).bfloat16())
    assert not trials._PASSED


class Clamped(LlamaMLP):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Any:
        return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=100.0) * self.up_proj(x))


class Scaled(LlamaMLP):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Any:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) * 0.5


class Plus(LlamaMLP):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Any:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * (self.up_proj(x) + 1))


@pytest.mark.parametrize("kind", [Clamped, Scaled, Plus])
def test_other_formulas_are_the_models(kind: Any) -> None:
    x = torch.randn(8, WIDTH).bfloat16()
    assert same(fused(block(kind)), block(kind), x)
    assert list(trials._PASSED.values()) == [False]


@pytest.mark.parametrize(("kind", "counted"), [(LlamaMLP, 1), (Clamped, 0), (Scaled, 0), (Plus, 0)])
def test_a_forecast_counts_on_it_for_this_formula_alone(kind: Any, counted: int) -> None:
    with pretending("cuda"), trials.assumed() as names:
        fused(block(kind))(torch.randn(8, WIDTH).bfloat16())
    assert len(names) == counted
    assert not trials._PASSED


def test_other_activations_precisions_and_the_plain_engine_are_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    other = block()
    other.act_fn = nn.ReLU()
    assert type(fused(other)) is type(fused(block().float())) is LlamaMLP
    with set_engine("plain"):
        assert type(fused(block())) is LlamaMLP
    x, ours = torch.randn(8, WIDTH).bfloat16(), fused(block())
    monkeypatch.setattr(blocks, "gated", lambda *_: 1 // 0)
    with set_engine("plain"):
        assert same(ours, block(), x)
    assert same(ours.float(), block().float(), x.float())
    compiled: Any = torch.compile(ours.bfloat16(), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), block()(x))


def test_without_the_package_every_class_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "PACKAGE", "a_package_that_is_not_there")
    assert type(fused(block())) is LlamaMLP


def test_what_a_hook_sees_is_not_written_over() -> None:
    x, ours, seen = torch.randn(8, WIDTH).bfloat16(), fused(block()), list[Tensor]()
    expected = ours.gate_proj(x)
    ours.gate_proj.register_forward_hook(lambda *given: seen.append(given[2]))
    assert same(ours, block(), x)
    assert torch.equal(seen[0], expected)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_gradients_of_a_model_are_nearly_its_own_and_the_same_with_checkpointing(
    half: Callable[..., Any], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = half(architecture)
    assert sum(isinstance(module, HalfGatedBlock) for module in model.modules()) == 2
    found = gradients(model)
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "_agrees", lambda *_: False)
        own = gradients(model)
    assert not all(torch.equal(*both) for both in zip(found, own, strict=True))
    assert max(errors(tuple(found), tuple(each.double() for each in own))) < 2**-4
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    assert all(torch.equal(*both) for both in zip(gradients(model), found, strict=True))
