"""RMS norms by one kernel are nearer to exact numbers than the models' own, and leave alone what they do not know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launches import Launches
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine import pretending, set_engine
from rlhf_plugins.engine.half import norm as norms
from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.half.norm import HalfRMSNorm, fuse_half_norms
from rlhf_plugins.engine.weights import loading
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.sandbox import POLICY

HALVES = [torch.bfloat16, torch.float16]
WIDTH = 48


def norm(kind: Any = LlamaRMSNorm, half: torch.dtype = torch.bfloat16) -> Any:
    torch.manual_seed(0)
    made = kind(WIDTH, eps=1e-2)
    nn.init.normal_(made.weight)
    return made.to(half).requires_grad_(False)


def computed(made: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output and the gradient of the input."""
    x = x.clone().requires_grad_()
    output = made(x)
    towards = torch.arange(output.numel(), device=x.device).sin().view(output.shape).bfloat16()
    return output.detach(), torch.autograd.grad(output, x, towards.to(output.dtype))[0]


def calls(made: Any, x: Tensor) -> int:
    """How many operations compute the norm and its gradient."""
    with Launches() as found:
        computed(made, x)
    return found.all


def errors(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> list[float]:
    return [float((one.double() - right).norm() / right.norm()) for one, right in zip(found, expected, strict=True)]


def test_worked_by_hand() -> None:
    made = fuse_half_norms(LlamaRMSNorm(2, eps=0.5).bfloat16().requires_grad_(False))
    made.weight.copy_(torch.tensor([2.0, 1.0]))
    x = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16, requires_grad=True)  # mean of squares 2.5, and 0.5 make 3
    output = made(x)
    torch.testing.assert_close(output.float(), torch.tensor([[2.0, 2.0]]) / 3**0.5, rtol=2**-8, atol=0)
    output[0, 0].backward()  # y = 2 a / sqrt((a^2 + b^2) / 2 + 0.5): dy/da = 2 / s - a^2 / s^3, dy/db = -a b / s^3
    assert x.grad is not None
    torch.testing.assert_close(
        x.grad.float(), torch.tensor([[2 / 3**0.5 - 1 / 3**1.5, -2 / 3**1.5]]), rtol=2**-8, atol=0
    )


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
@pytest.mark.parametrize("shape", [(40, WIDTH), (2, 3, 7, WIDTH), (1, 1, WIDTH)])
def test_it_is_nearer_to_exact_numbers_than_the_models(kind: Any, half: torch.dtype, shape: tuple[int, ...]) -> None:
    """Also under autocast, which casts torch's own function to float32."""
    x, own, fused = torch.randn(shape).to(half), norm(kind, half), fuse_half_norms(norm(kind, half))
    with torch.autocast("cpu", torch.bfloat16):
        found, theirs = computed(fused, x), computed(own, x)
    assert isinstance(fused, HalfRMSNorm)
    assert [each.dtype for each in found] == [half, half]
    expected = computed(own.double(), x.double())
    for mine, other in zip(errors(found, expected), errors(theirs, expected), strict=True):
        assert mine <= other
    if x.numel() > WIDTH:
        assert errors(found, expected)[0] < 0.9 * errors(theirs, expected)[0]


def test_it_is_one_operation_each_way_and_keeps_its_input_alone() -> None:
    x, own, fused = torch.randn(40, WIDTH).bfloat16(), norm(), fuse_half_norms(norm())
    computed(fused, x)  # the trial
    assert calls(own, x) - calls(fused, x) > 14
    kept = Counter[torch.dtype]()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda each: kept.update({each.dtype: each.numel()}) or each, lambda each: each
    ):
        fused(x.requires_grad_())
    assert kept == {torch.bfloat16: x.numel() + WIDTH, torch.float32: 40}


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("shape", [(40, WIDTH), (2, 3, 7, WIDTH), (1, 1, WIDTH)])
def test_with_a_factor_of_1_plus_w_it_is_as_near_to_exact_numbers_as_the_models(
    half: torch.dtype, shape: tuple[int, ...]
) -> None:
    x, own, fused = torch.randn(shape).to(half), norm(Gemma3RMSNorm, half), fuse_half_norms(norm(Gemma3RMSNorm, half))
    with torch.autocast("cpu", torch.bfloat16):
        found, theirs = computed(fused, x), computed(own, x)
    assert list(trials._PASSED.values()) == [True]
    assert [each.dtype for each in found] == [half, half]
    expected = computed(own.double(), x.double())
    for mine, other in zip(errors(found, expected), errors(theirs, expected), strict=True):
        assert mine < 1.01 * other


def test_with_a_factor_of_1_plus_w_it_is_five_launches_and_three_in_place_of_ten_and_fourteen() -> None:
    x, own, fused = torch.randn(40, WIDTH).bfloat16(), norm(Gemma3RMSNorm), fuse_half_norms(norm(Gemma3RMSNorm))
    computed(fused, x)  # the trial
    assert calls(own, x) - calls(fused, x) == 10 + 14 - 5 - 3
    with torch.no_grad(), Launches() as found:
        fused(x)
    assert found.all == 5


class TwiceRMSNorm(LlamaRMSNorm):  # type: ignore[misc]
    def forward(self, hidden_states: Tensor) -> Any:
        return 2 * super().forward(hidden_states)


@pytest.mark.parametrize("kind", [TwiceRMSNorm, Gemma3RMSNorm, LlamaRMSNorm])
def test_other_formulas_and_precisions_are_the_models(kind: Any) -> None:
    x, fused, own = torch.randn(4, WIDTH), fuse_half_norms(norm(kind)), norm(kind)
    if kind is TwiceRMSNorm:
        x = x.bfloat16()
    assert all(torch.equal(*both) for both in zip(computed(fused, x), computed(own, x), strict=True))
    assert not any(trials._PASSED.values())
    single = norm(kind).float()
    assert type(fuse_half_norms(single)) is kind


@pytest.mark.parametrize(
    ("kind", "added"), [(LlamaRMSNorm, 0.0), (Olmo2RMSNorm, 0.0), (Gemma3RMSNorm, 1.0), (TwiceRMSNorm, None)]
)
def test_a_forecast_finds_the_formula_without_a_device(kind: Any, added: float | None) -> None:
    fused = fuse_half_norms(norm(kind))
    with pretending("cuda"), trials.assumed() as names:
        assert norms._added(fused, torch.randn(4, WIDTH).bfloat16()) == added
    assert names == (set() if added is None else {"RMS norms in half precision"})
    assert not trials._PASSED


def test_a_forecast_does_not_count_on_a_kernel_that_this_torch_has_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "GRADIENT", "_an_operator_of_later_versions")
    fused = fuse_half_norms(norm())
    with pretending("cuda"), trials.assumed() as names:
        assert norms._added(fused, torch.randn(4, WIDTH).bfloat16()) is None
    assert not names


def test_a_formula_that_rounds_at_the_end_is_the_same() -> None:
    x, fused = torch.randn(4, WIDTH).bfloat16(), fuse_half_norms(norm(Olmo2RMSNorm))
    assert torch.equal(fused(x), norm(Olmo2RMSNorm)(x))
    assert calls(fused, x) < calls(norm(Olmo2RMSNorm), x)


@pytest.mark.parametrize("wrong", ["output", "gradient", "missing"])
def test_a_kernel_that_disagrees_is_not_used(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    x, fused, right = torch.randn(4, WIDTH).bfloat16(), fuse_half_norms(norm()), norms.RMS_NORM

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, made: Tensor) -> Tensor:
            return made * (1.02 if wrong == "output" else 1.0)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * (1.02 if wrong == "gradient" else 1.0)

    def kernel(*given: Any) -> Any:
        if wrong == "missing":
            raise NotImplementedError
        return Wrong.apply(right(*given)[0]), None

    monkeypatch.setattr(norms, "BACKWARD", "WrongBackward")
    monkeypatch.setattr(norms, "RMS_NORM", kernel)
    assert torch.equal(fused(x), norm()(x))
    assert not any(trials._PASSED.values())


def test_where_a_device_has_no_kernel_the_norm_is_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "BACKWARD", "another")
    x, fused = torch.randn(4, WIDTH).bfloat16(), fuse_half_norms(norm())
    assert torch.equal(fused(x), norm()(x))


def test_the_plain_engine_computes_the_models_own() -> None:
    x, fused = torch.randn(4, WIDTH).bfloat16(), fuse_half_norms(norm())
    with set_engine("plain"):
        assert torch.equal(fused(x), norm()(x))
        assert type(fuse_half_norms(norm())) is LlamaRMSNorm


def test_norms_of_a_quantized_base_are_fused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_dtype", lambda base: torch.bfloat16)
    model = load_causal(Base(str(POLICY), quantization="nf4"))
    found = [module for module in model.modules() if isinstance(module, HalfRMSNorm)]
    assert len(found) >= 2 * model.config.num_hidden_layers + 1


Half = Callable[..., Any]


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_every_norm_of_a_model_is_the_kernel(half: Half, architecture: str, tmp_path: Path) -> None:
    model, counted = half(architecture), Counter[bool]()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.register_forward_hook(lambda *given: counted.update([given[2].grad_fn.name() == norms.BACKWARD]))
    model.enable_input_require_grads()
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.tensor([[5, 6, 7]]))
    assert counted == {True: {"llama": 5, "qwen3": 9}[architecture]}
