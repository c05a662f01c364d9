"""LoRA layers that go over their output once, where PEFT's go over it four times. It knows layers, no models.

PEFT's layer computes W x, B A x, s B A x and their sum as four tensors, and as many gradients. In float32 on a CPU that
costs as much as the weight gradients that an adapter spares.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional


def in_one_pass(model: Any) -> Any:
    """The model, whose LoRA layers on plain linear ones are `Linear` from now on."""
    for layer in model.modules():
        if type(layer) is lora.Linear and type(layer.get_base_layer()) is nn.Linear:
            layer.__class__ = Linear
    return model


class Linear(lora.Linear):  # PEFT knows by this name where another adapter can go
    """PEFT's LoRA layer, W x + b + s B A x in one tensor where one frozen float32 layer wears one plain adapter.

    Anything else (several adapters, dropout, DoRA, autocast, other precisions) is PEFT's own computation.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        adapter = self._adapter(x) if not args and not kwargs else None
        if adapter is None:
            computed: Tensor = super().forward(x, *args, **kwargs)
            return computed
        base, down, up = self.base_layer, self.lora_A[adapter].weight, self.lora_B[adapter].weight
        flat = x.reshape(-1, x.shape[-1])
        added: Tensor = _Added.apply(flat, base.weight, base.bias, down, up, self.scaling[adapter])
        return added.view(*x.shape[:-1], added.shape[-1])

    def _adapter(self, x: Tensor) -> str | None:
        """The name of the one plain adapter that is worn, or None."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name: str = self.active_adapters[0]
        if name not in self.lora_A or name in self.lora_variant or torch.is_autocast_enabled(x.device.type):
            return None
        weights = [self.base_layer.weight, self.lora_A[name].weight, self.lora_B[name].weight]
        plain = isinstance(self.lora_dropout[name], nn.Identity) and self.lora_B[name].bias is None
        single = all(tensor.dtype == torch.float32 for tensor in [x, *weights])
        frozen = not any(tensor.requires_grad for tensor in self.base_layer.parameters())
        return name if plain and single and frozen else None


class _Added(Function):
    """x W' + b + s x A' B' and its gradients for x, A and B; x is (rows, inputs), W (outputs, inputs)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, s: float) -> Tensor:
        inner = x @ down.t()
        ctx.save_for_backward(x, weight, down, up, inner)
        ctx.scaling = s
        return functional.linear(x, weight, bias).addmm_(inner, up.t(), alpha=s)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, inner = ctx.saved_tensors
        for_inner = (gradient @ up).mul_(ctx.scaling)
        for_x = (gradient @ weight).addmm_(for_inner, down) if ctx.needs_input_grad[0] else None
        return for_x, None, None, for_inner.t() @ x, (gradient.t() @ inner).mul_(ctx.scaling), None
