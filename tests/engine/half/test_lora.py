"""A LoRA layer in half precision is nearer to exact numbers than PEFT's, gradients too, and leaves the others to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn.functional import linear

from rlhf_plugins.engine import HALF_GRADIENTS, set_engine
from rlhf_plugins.engine.half import lora as half_lora
from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.half.lora import _Adapted, adapted, fuse_lora

HALVES = [torch.bfloat16, torch.float16]
WIDTHS = 64, 96


def dense(half: torch.dtype, bias: bool = False) -> Any:
    return nn.Linear(*WIDTHS, bias=bias).to(half).requires_grad_(False)


def four_bit(half: torch.dtype, bias: bool = False) -> Any:
    own, base = nn.Linear(*WIDTHS, bias=bias), Linear4bit(*WIDTHS, bias=bias, compute_dtype=half, quant_type="nf4")
    base.load_state_dict(own.state_dict())
    base.support_avx512bf16_for_cpu = False
    return base.to("cpu").to(half).requires_grad_(False)


def layer(base: Any, **options: Any) -> Any:
    """A LoRA layer in float32 whose B is not 0, as training leaves it."""
    torch.manual_seed(0)
    model = nn.Sequential(base)
    model.is_loaded_in_4bit = isinstance(base, Linear4bit)  # type: ignore[assignment]
    chosen = {"r": 8, "lora_alpha": 12, "target_modules": ["0"], **options}
    found: Any = fuse_lora(get_peft_model(model, LoraConfig(**chosen))).base_model.model[0]
    nn.init.normal_(found.lora_B["default"].weight, std=0.3)
    return found


def weights_of(found: Any) -> tuple[Tensor, Tensor]:
    return found.lora_A["default"].weight, found.lora_B["default"].weight


def computed(found: Any, forward: Any, x: Tensor, half: torch.dtype) -> list[Tensor]:
    """The output under autocast, and the gradients of x, A and B."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", half):
        output = forward(x)
    grads = torch.autograd.grad(output, (x, *weights_of(found)), towards(output))
    return [output.detach(), *grads]


def towards(output: Tensor) -> Tensor:
    return torch.arange(output.numel(), dtype=torch.float64).sin().view(output.shape).to(output.dtype)


def exact(found: Any, x: Tensor, half: torch.dtype) -> list[Tensor]:
    """The same in float64, of the base's own numbers."""
    with torch.no_grad(), torch.autocast("cpu", half):
        unit = torch.eye(WIDTHS[0], dtype=half)
        offset = found.base_layer(torch.zeros_like(unit)).double()
        weight = (found.base_layer(unit).double() - offset).t()
    x, (down, up) = x.double().requires_grad_(), (w.detach().double().requires_grad_() for w in weights_of(found))
    output = linear(x, weight) + offset[0] + found.scaling["default"] * linear(linear(x, down), up)
    return [output.detach(), *torch.autograd.grad(output, (x, down, up), towards(output).to(half).double())]


def errors(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Root mean squares, relative to those of the expected numbers."""
    pairs = zip(found, expected, strict=True)
    return [float((one.double() - other).norm() / other.norm()) for one, other in pairs]


def test_worked_by_hand() -> None:
    base = nn.Linear(2, 1).bfloat16().requires_grad_(False)
    found = layer(base, r=1, lora_alpha=10)
    down, up = weights_of(found)
    with torch.no_grad():
        for weights, value in ((base.weight, [[1.0, 2.0]]), (base.bias, [0.5]), (down, [[1.0, -1.0]]), (up, [[0.25]])):
            weights.copy_(torch.tensor(value))
    x = torch.tensor([[3.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = found(x)  # 3 + 2 + 0.5 + 10 * 0.25 * (3 - 1)
        assert adapted(found, x) is not None
    output.backward()
    assert output.item() == 10.5
    assert x.grad is not None
    assert x.grad.tolist() == [[3.5, -0.5]]  # W + s B A
    assert weights_of(found)[0].grad.tolist() == [[7.5, 2.5]]  # s B x
    assert weights_of(found)[1].grad.item() == 20.0  # s A x
    assert weights_of(found)[0].grad.dtype == torch.float32


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("make", [dense, four_bit])
def test_it_is_as_near_to_exact_numbers_as_pefts(make: Any, bias: bool, half: torch.dtype) -> None:
    found = layer(make(half, bias))
    x = torch.randn(3, 40, WIDTHS[0]).to(half)
    peft = lora.Linear4bit if make is four_bit else lora.Linear
    assert isinstance(found, peft)
    assert type(found).__module__.startswith("rlhf_plugins.engine.half")
    ours, theirs = (computed(found, forward, x, half) for forward in (found, lambda x: peft.forward(found, x)))
    assert [each.dtype for each in ours] == [each.dtype for each in theirs]
    expected = exact(found, x, half)
    for own, other in zip(errors(ours, expected), errors(theirs, expected), strict=True):
        assert own < 0.95 * other  # what is rounded twice is nearer than what is rounded four times


def test_an_input_in_float32_is_cast_once_and_its_gradient_too() -> None:
    found = layer(dense(torch.bfloat16))
    x = torch.randn(40, WIDTHS[0])
    ours = computed(found, found, x, torch.bfloat16)
    theirs = computed(found, lambda x: lora.Linear.forward(found, x), x, torch.bfloat16)
    assert [each.dtype for each in ours] == [each.dtype for each in theirs]
    expected = exact(found, x, torch.bfloat16)
    for own, other in zip(errors(ours, expected), errors(theirs, expected), strict=True):
        assert own <= 1.2 * other


@pytest.mark.parametrize("shape", [(4, 64), (2, 4, 64), (1, 1, 64), (2, 0, 64)])
def test_without_gradients_the_output_is_the_same(shape: tuple[int, ...]) -> None:
    found, x = layer(dense(torch.bfloat16)), torch.randn(shape).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        output = found(x)
        with torch.no_grad():
            again = found(x)
    assert output.shape == (*shape[:-1], WIDTHS[1])
    assert torch.equal(output, again)
    assert not again.requires_grad


def test_what_needs_no_gradient_gets_none() -> None:
    found, x = layer(dense(torch.bfloat16)), torch.randn(4, 64).bfloat16()
    weights_of(found)[1].requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        found(x).sum().backward()
    assert x.grad is None
    assert weights_of(found)[1].grad is None
    assert weights_of(found)[0].grad.abs().sum() > 0


OTHERS = [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}]


@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_other_adapters_are_pefts(options: dict[str, Any]) -> None:
    found, x = layer(dense(torch.bfloat16, bias=True), **options), torch.randn(4, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert adapted(found, x) is None
        torch.manual_seed(1)
        expected = lora.Linear.forward(found, x)
        torch.manual_seed(1)
        assert torch.equal(found(x), expected)


def test_other_layers_and_states_are_pefts() -> None:
    found, x, single = layer(dense(torch.bfloat16)), torch.randn(4, 64).bfloat16(), layer(nn.Linear(*WIDTHS))
    assert adapted(found, x) is None  # without autocast the adapter computes in float32
    with torch.autocast("cpu", torch.float16):
        assert adapted(found, x) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert adapted(found, x) is not None
        assert adapted(single, x) is None
        with set_engine("plain"):
            assert adapted(found, x) is None
        found.base_layer.weight.requires_grad_()
        assert adapted(found, x) is None
        found.base_layer.weight.requires_grad_(False)
        handle = found.lora_A["default"].register_forward_hook(lambda *_: None)
        assert adapted(found, x) is None
        handle.remove()
        found.update_layer("other", 2, lora_alpha=2, config=LoraConfig(r=2))
        found.set_adapter(["default", "other"])
        assert adapted(found, x) is None
        found.enable_adapters(False)
        assert torch.equal(found(x), found.base_layer(x))


def test_of_several_adapters_the_active_one_computes() -> None:
    found, x = layer(dense(torch.bfloat16)), torch.randn(4, 64).bfloat16()
    found.update_layer("other", 2, lora_alpha=2, config=LoraConfig(r=2))
    with torch.autocast("cpu", torch.bfloat16):
        one = found(x)
        found.set_adapter("other")
        assert torch.equal(found(x), found.base_layer(x))  # its B is 0
        found.set_adapter("default")
        assert torch.equal(found(x), one)


def test_a_trial_that_fails_leaves_the_layer_to_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    found, x, right = layer(dense(torch.bfloat16)), torch.randn(4, 64).bfloat16(), _Adapted.backward
    with torch.autocast("cpu", torch.bfloat16):
        for place in range(3):
            wrong = [1.1 if at == place else 1.0 for at in range(3)]

            def backward(ctx: Any, grad: Tensor, wrong: list[float] = wrong) -> Any:
                found = right(ctx, grad)
                return *(by * each for by, each in zip(wrong, found, strict=False)), *found[3:]

            monkeypatch.setattr(trials, "_PASSED", {})
            monkeypatch.setattr(_Adapted, "backward", staticmethod(backward))
            assert adapted(found, x) is None


@pytest.mark.parametrize("has_kernel", [True, False])
def test_gradients_of_adapters_are_rounded_to_half_precision_only_where_a_device_needs_it(
    monkeypatch: pytest.MonkeyPatch, has_kernel: bool
) -> None:
    def missing(*_: Any, **__: Any) -> Tensor:
        raise NotImplementedError

    if not has_kernel:
        monkeypatch.setattr(half_lora, "TO_SINGLE", missing)
    found, x = layer(dense(torch.bfloat16)), torch.randn(40, WIDTHS[0]).bfloat16()
    grads = computed(found, found, x, torch.bfloat16)[2:]
    assert all(each.dtype == torch.float32 for each in grads)
    assert all(torch.equal(each, each.bfloat16().float()) != has_kernel for each in grads)
    assert trials.results()[HALF_GRADIENTS.what] == [has_kernel]


def test_a_product_in_float32_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = half_lora.TO_SINGLE
    monkeypatch.setattr(half_lora, "TO_SINGLE", lambda *given, **options: 1.001 * right(*given, **options))
    found, x = layer(dense(torch.bfloat16)), torch.randn(40, WIDTHS[0]).bfloat16()
    computed(found, found, x, torch.bfloat16)
    assert trials.results()[HALF_GRADIENTS.what] == [False]
