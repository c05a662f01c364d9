"""A gated block as one step of autograd is the model's own, gradients too, adapters on and off."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.llama.modeling_llama import LlamaMLP

from rlhf_plugins.engine.cpu.feed_forward import MANY, FusedGatedBlock, fuse_gated_blocks
from rlhf_plugins.engine.cpu.linear_layer import fuse_lora

WIDTH, INNER = 3, 5


def config(width: int = WIDTH, inner: int = INNER, **options: Any) -> LlamaConfig:
    return LlamaConfig(hidden_size=width, intermediate_size=inner, num_attention_heads=1, **options)


class Holder(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Any:
        return self.block(x)


def holder(lora: bool = False, bias: bool = False) -> Any:
    """A model of one block; an adapter's B is not 0, as training leaves it."""
    torch.manual_seed(0)
    model: Any = Holder(LlamaMLP(config(mlp_bias=bias))).eval()
    if lora:
        wanted = LoraConfig(r=2, lora_alpha=6, target_modules=["gate_proj", "up_proj", "down_proj"])
        model = get_peft_model(model, wanted)
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weights)
    return model


def ours(model: Any) -> Any:
    """The same model, computed here."""
    return fuse_lora(fuse_gated_blocks(copy.deepcopy(model)))


def block(model: Any) -> Any:
    return next(module for module in model.modules() if isinstance(module, LlamaMLP))


def output_and_grads(model: Any, x: Tensor) -> list[Tensor]:
    """The output and the gradients of the input and of everything that is trained."""
    x = x.clone().requires_grad_()
    output = model(x)
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    weighted = output.flatten() * torch.linspace(-1, 1, output.numel())
    return [output, *torch.autograd.grad(weighted.sum(), [x, *trained])]


def test_worked_by_hand() -> None:
    model = ours(Holder(LlamaMLP(config(1, 1))).eval())
    with torch.no_grad():
        for layer, value in ((model.block.gate_proj, 2.0), (model.block.up_proj, 3.0), (model.block.down_proj, 5.0)):
            layer.weight.fill_(value)
    x = torch.tensor([[0.5]], requires_grad=True)
    model(x).backward()  # y = 5 g s(g) 3 x with g = 2 x = 1 and s = 1 / (1 + 1/e) = 0.731059
    assert model(x).item() == pytest.approx(5 * 0.731059 * 1.5, abs=1e-5)
    slope = 0.731059 + 0.731059 * 0.268941  # of silu at 1
    assert x.grad.item() == pytest.approx(5 * (2 * slope * 1.5 + 3 * 0.731059), abs=1e-5)
    assert model.block.down_proj.weight.grad.item() == pytest.approx(0.731059 * 1.5, abs=1e-5)


@pytest.mark.parametrize("shape", [(4, WIDTH), (2, 4, WIDTH), (1, 1, WIDTH)])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_output_and_gradients_are_the_models(shape: tuple[int, ...], lora: bool) -> None:
    model, x = holder(lora), torch.randn(shape)
    other = ours(model)
    assert isinstance(block(other), FusedGatedBlock)
    torch.testing.assert_close(output_and_grads(other, x), output_and_grads(model, x), rtol=1e-5, atol=1e-5)


class Clamped(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        gates = self.gate_proj(x).clamp(max=10.0)
        return self.down_proj(self.act_fn(gates) * self.up_proj(x))


def test_a_block_that_clamps_what_is_large_keeps_its_own_way() -> None:
    torch.manual_seed(0)
    model = Holder(Clamped(config()).eval())
    assert torch.equal(
        Clamped.forward(model.block, torch.ones(1, WIDTH)), LlamaMLP.forward(model.block, torch.ones(1, WIDTH))
    )
    assert type(block(ours(model))) is Clamped


def test_it_keeps_two_tensors_of_the_inner_width() -> None:
    kept: list[Tensor] = []
    model = ours(holder())
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        model(torch.randn(7, WIDTH))
    assert [tuple(tensor.shape) for tensor in kept].count((7, INNER)) == 2


def test_with_the_adapter_off_it_is_the_base() -> None:
    model, x = holder(lora=True), torch.randn(4, WIDTH)
    other = ours(model)
    with other.disable_adapter():
        torch.testing.assert_close(other(x), holder()(x))


@pytest.mark.parametrize("tokens", [64, MANY // WIDTH + 1], ids=["few", "many"])
def test_with_and_without_gradients_it_computes_the_same_bits(tokens: int) -> None:
    for model in (ours(holder()), ours(holder(lora=True))):
        x = torch.randn(tokens, WIDTH)
        with torch.no_grad():
            silent = model(x)
        assert torch.equal(silent, model(x))


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}])
def test_other_adapters_are_pefts(options: dict[str, Any]) -> None:
    wanted = LoraConfig(r=2, target_modules=["up_proj"], **options)
    model = get_peft_model(holder(), wanted)
    other, x = ours(model), torch.randn(4, WIDTH)
    torch.manual_seed(1)
    expected = output_and_grads(model, x)
    torch.manual_seed(1)
    torch.testing.assert_close(output_and_grads(other, x), expected)


def test_a_hook_on_a_layer_is_called() -> None:
    model, seen = ours(holder()), []
    model.block.down_proj.register_forward_hook(lambda *given: seen.append(given))
    model(torch.randn(4, WIDTH))
    assert len(seen) == 1


def test_what_is_not_known_keeps_its_own_way() -> None:
    biased, x = holder(bias=True), torch.randn(4, WIDTH)
    torch.testing.assert_close(output_and_grads(ours(biased), x), output_and_grads(biased, x), rtol=0, atol=0)
    gelu = Holder(GemmaMLP(config(hidden_act="gelu"))).eval()
    assert type(fuse_gated_blocks(gelu).block) is GemmaMLP
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(holder())(x), holder()(x))


def test_a_block_of_the_same_names_that_computes_otherwise_keeps_its_own_way() -> None:
    class Doubled(LlamaMLP):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = Holder(Doubled(config())).eval()
    assert type(fuse_gated_blocks(model).block) is Doubled
