"""Linear layers as one product, with or without LoRA, where others make several. It knows layers, no models.

PEFT's LoRA layer computes W x, B A x, s B A x and their sum as four tensors, and as many gradients. In float32 on a
CPU that costs as much as the weight gradients that an adapter spares.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rlhf_plugins.contract.interfaces import Adapter
from rlhf_plugins.engine.cpu import product as products
from rlhf_plugins.engine.cpu.product import Product, blocked


def lora_config(adapter: Adapter, task: str | None = None) -> LoraConfig:
    """PEFT's configuration of an adapter; `task` is PEFT's task type."""
    return LoraConfig(task_type=task, **asdict(adapter))


def in_one_pass(model: Any) -> Any:
    """The model, whose LoRA layers on plain linear ones are `Linear` from now on."""
    for layer in model.modules():
        if type(layer) is lora.Linear and is_plain(layer.get_base_layer()):
            layer.__class__ = Linear
    return model


def faster(model: Any) -> Any:
    """The model, whose plain linear layers are `Plain` from now on where MKL is slow, but for its head (see `head`)."""
    for layer in model.modules() if products.MKL_IS_SLOW else ():
        if type(layer) is nn.Linear and layer is not model.get_output_embeddings():
            layer.__class__ = Plain
    return model


def is_plain(layer: Any) -> bool:
    """Whether a layer computes W x + b and nothing else."""
    return type(layer) in (nn.Linear, Plain)


class Plain(nn.Linear):
    """torch's linear layer, whose products of many rows in float32 on a CPU, gradients too, are `product`'s.

    As adapters and gated blocks here, it is differentiated once: there are no gradients of its gradients.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        flat = x.reshape(-1, x.shape[-1])
        if torch.is_autocast_enabled(x.device.type) or not blocked(flat, self.weight.numel()):
            return super().forward(x)
        summed: Tensor = _Summed.apply(flat, self.bias, 1.0, self.weight, None, None)
        return summed.view(*x.shape[:-1], -1)

    def product(self, x: Tensor) -> Product | None:
        """What the layer computes of x; None where that is more than a product in float32."""
        single = x.dtype == self.weight.dtype == torch.float32
        return Product(1.0, self.weight) if single and self.bias is None else None


class Linear(lora.Linear):  # PEFT knows by this name where another adapter can go
    """PEFT's LoRA layer, W x + b + s B A x in one tensor where one frozen float32 layer wears one plain adapter.

    Anything else (several adapters, dropout, DoRA, autocast, other precisions) is PEFT's own computation.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        asked = bool(args or kwargs)
        if self.merged and not self.disable_adapters and not asked:  # what PEFT's comes to, after many questions
            folded: Tensor = self.base_layer(x)
            return folded
        adapter = None if asked else self._adapter(x)
        if adapter is None:
            computed: Tensor = super().forward(x, *args, **kwargs)
            return computed
        flat, product = x.reshape(-1, x.shape[-1]), self._worn(adapter)
        weights = (product.weight, product.down, product.up)
        added: Tensor = _Summed.apply(flat, self.base_layer.bias, product.scaling, *weights)
        return added.view(*x.shape[:-1], added.shape[-1])

    def product(self, x: Tensor) -> Product | None:
        """What the layer computes of x, with one plain adapter or with none; None where it is anything else."""
        base = self.base_layer
        if not is_plain(base) or base.bias is not None or base.weight.dtype != torch.float32:
            return None
        if self.merged or self.disable_adapters:
            return Product(1.0, base.weight) if self.merged != self.disable_adapters else None
        adapter = self._adapter(x)
        return None if adapter is None else self._worn(adapter)

    def _worn(self, adapter: str) -> Product:
        down, up = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        return Product(self.scaling[adapter], self.base_layer.weight, down, up)

    def _adapter(self, x: Tensor) -> str | None:
        """The name of the one plain adapter that is worn, or None."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name: str = self.active_adapters[0]
        if name not in self.lora_A or name in self.lora_variant or torch.is_autocast_enabled(x.device.type):
            return None
        base, down, up = self.base_layer, self.lora_A[name].weight, self.lora_B[name]
        plain = isinstance(self.lora_dropout[name], nn.Identity) and up.bias is None
        single = all(tensor.dtype == torch.float32 for tensor in (x, base.weight, down, up.weight))
        trained = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
        return name if plain and single and not trained else None


class _Summed(Function):
    """x W' + b + s x A' B' and its gradients; x is (rows, inputs), W (outputs, inputs), A and B may be None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, scaling: float, weight: Tensor, *adapter: Any) -> Tensor:
        product = Product(scaling, weight, *adapter)
        ctx.save_for_backward(x if any(ctx.needs_input_grad[3:]) else None, weight, *adapter)
        ctx.scaling = scaling
        summed = product.summed(len(x)).of(x)
        return summed if bias is None else summed.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        product = Product(ctx.scaling, *weights)
        low = product.of_inner(gradient)
        of_x = product.of_input(gradient, low) if ctx.needs_input_grad[0] else None
        of_bias = gradient.sum(0) if ctx.needs_input_grad[1] else None
        return of_x, of_bias, None, *product.of_weights(gradient, low, x, ctx.needs_input_grad[3:])
