"""A LoRA layer in one pass computes what PEFT's does, gradients too, and leaves to PEFT what it does not know."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch import Tensor, nn

from rlhf_plugins.engine.cpu.linear_layer import Linear, fuse_lora


def layer(base: nn.Linear | None = None, **options: Any) -> Any:
    """A LoRA layer whose B is not 0, as training leaves it."""
    torch.manual_seed(0)
    chosen = {"r": 2, "lora_alpha": 6, "target_modules": ["0"], **options}
    model = get_peft_model(nn.Sequential(base or nn.Linear(3, 5)), LoraConfig(**chosen))
    found = fuse_lora(model).base_model.model[0]
    nn.init.normal_(found.lora_B["default"].weight)
    return found


def output_and_grads(found: Any, forward: Any, x: Tensor) -> list[Tensor]:
    """The output and the gradients of x, A and B."""
    x = x.clone().requires_grad_()
    output = forward(found, x)
    weights = [found.lora_A["default"].weight, found.lora_B["default"].weight]
    return [output, *torch.autograd.grad((output * output.detach().cos()).sum(), [x, *weights])]


def test_worked_by_hand() -> None:
    base = nn.Linear(2, 1)
    found = layer(base, r=1, lora_alpha=10)
    with torch.no_grad():
        for weights, value in ((base.weight, [[1.0, 2.0]]), (base.bias, [0.5])):
            weights.copy_(torch.tensor(value))
        found.lora_A["default"].weight.copy_(torch.tensor([[1.0, -1.0]]))
        found.lora_B["default"].weight.copy_(torch.tensor([[0.3]]))
    x = torch.tensor([[3.0, 1.0]], requires_grad=True)
    output = found(x)  # 3 + 2 + 0.5 + 10 * 0.3 * (3 - 1)
    output.backward()
    assert output.item() == pytest.approx(11.5)
    torch.testing.assert_close(x.grad, torch.tensor([[4.0, -1.0]]))  # W + s B A
    torch.testing.assert_close(found.lora_A["default"].weight.grad, torch.tensor([[9.0, 3.0]]))  # s B x
    assert found.lora_B["default"].weight.grad.item() == pytest.approx(20.0)  # s A x


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3), (1, 1, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_pefts(shape: tuple[int, ...], bias: bool) -> None:
    found, x = layer(nn.Linear(3, 5, bias=bias)), torch.randn(shape)
    assert found._fusable_adapter(x) == "default"
    torch.testing.assert_close(
        output_and_grads(found, Linear.forward, x), output_and_grads(found, lora.Linear.forward, x)
    )


def test_inputs_that_need_no_gradient_get_none() -> None:
    found, x = layer(), torch.randn(4, 3)
    found(x).sum().backward()
    assert x.grad is None
    assert found.lora_A["default"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_other_adapters_are_pefts(options: dict[str, Any]) -> None:
    found, x = layer(**options), torch.randn(4, 3)
    assert found._fusable_adapter(x) is None
    torch.manual_seed(1)
    expected = output_and_grads(found, lora.Linear.forward, x)
    torch.manual_seed(1)
    torch.testing.assert_close(output_and_grads(found, Linear.forward, x), expected, rtol=0, atol=0)


def test_other_precisions_and_weights_are_pefts() -> None:
    found, x = layer(), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert found._fusable_adapter(x) is None
    assert found._fusable_adapter(x.bfloat16()) is None
    assert found._fusable_adapter(x.to("meta")) is None
    found.base_layer.bias.requires_grad_()
    assert found._fusable_adapter(x) is None


def test_merged_disabled_and_joined_adapters_are_pefts() -> None:
    found, x = layer(), torch.randn(4, 3)
    found.update_layer("other", 2, lora_alpha=2, config=LoraConfig(r=2))
    expected = found(x)
    found.set_adapter(["default", "other"])
    torch.testing.assert_close(found(x), expected)  # the other's B is 0
    found.set_adapter("default")
    found.merge()
    torch.testing.assert_close(found(x), expected)
    found.enable_adapters(False)
    torch.testing.assert_close(found(x), found.base_layer(x))


def test_no_rows_are_no_rows() -> None:
    assert layer()(torch.zeros(2, 0, 3)).shape == (2, 0, 5)
