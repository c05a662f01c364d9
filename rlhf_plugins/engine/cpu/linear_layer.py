"""Linear layers, plain and with LoRA, as one product.

PEFT's LoRA layer computes W x, B A x, s B A x and their sum as four tensors, and as many gradients. In float32 on a
CPU that costs as much as the gradients of the weights, which an adapter saves.
"""

from __future__ import annotations

from typing import Any

from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rlhf_plugins.engine import LORA, ONEDNN, casts
from rlhf_plugins.engine.cpu import product as products
from rlhf_plugins.engine.cpu.product import Product, uses_onednn


def fuse_lora(model: Any) -> Any:
    """The model, with our `Linear` for every LoRA layer of PEFT on a plain linear layer where `LORA` is active."""
    for layer in model.modules():
        base: Any = layer.get_base_layer() if type(layer) is lora.Linear else None
        if is_plain(base) and LORA.active(base.weight):
            layer.__class__ = Linear
    return model


def use_onednn(model: Any) -> Any:
    """The model, with `OneDNNLinear` for its plain linear layers if MKL is slow; not for its head (see `head`)."""
    for layer in model.modules() if products.MKL_IS_SLOW else ():
        if type(layer) is nn.Linear and layer is not model.get_output_embeddings() and ONEDNN.active(layer.weight):
            layer.__class__ = OneDNNLinear
    return model


def is_plain(layer: Any) -> bool:
    """Whether a layer computes W x + b and nothing else."""
    return type(layer) in (nn.Linear, OneDNNLinear)


class OneDNNLinear(nn.Linear):
    """torch's linear layer, which computes large products, and their gradients, as `product` does.

    Like our LoRA layers and gated blocks, it has no second derivative.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        flat = x.reshape(-1, x.shape[-1])
        if not uses_onednn(flat, self.weight.numel()):
            return super().forward(x)
        output: Tensor = _Linear.apply(flat, self.bias, 1.0, self.weight, None, None)
        return output.view(*x.shape[:-1], -1)

    def product(self, x: Tensor) -> Product | None:
        """The product that the layer computes; None if it has a bias, or where `ONEDNN` is not active."""
        return Product(1.0, self.weight) if self.bias is None and ONEDNN.active(x, self.weight) else None


class Linear(casts.Linear):
    """PEFT's LoRA layer, with W x + b + s B A x in one tensor if one frozen layer has one plain active adapter.

    Anything else (several adapters, dropout, DoRA), and every layer where `LORA` is not active, is PEFT's computation.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        extra = bool(args or kwargs)
        if self.merged and not self.disable_adapters and not extra:  # PEFT's result, without its checks
            merged: Tensor = self.base_layer(x)
            return merged
        adapter = None if extra else self._fusable_adapter(x)
        if adapter is None:
            own: Tensor = super().forward(x, *args, **kwargs)
            return own
        flat, product = x.reshape(-1, x.shape[-1]), self._adapter_product(adapter)
        weights = (product.weight, product.down, product.up)
        output: Tensor = _Linear.apply(flat, self.base_layer.bias, product.scaling, *weights)
        return output.view(*x.shape[:-1], output.shape[-1])

    def product(self, x: Tensor) -> Product | None:
        """The product that the layer computes, with one plain adapter or with none; None if it is anything else."""
        base = self.base_layer
        if not is_plain(base) or base.bias is not None or not LORA.active(x, base.weight):
            return None
        if self.merged or self.disable_adapters:
            return Product(1.0, base.weight) if self.merged != self.disable_adapters else None
        adapter = self._fusable_adapter(x)
        return None if adapter is None else self._adapter_product(adapter)

    def _adapter_product(self, adapter: str) -> Product:
        down, up = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        return Product(self.scaling[adapter], self.base_layer.weight, down, up)

    def _fusable_adapter(self, x: Tensor) -> str | None:
        """The name of the one active plain adapter, or None."""
        if (name := casts.plain_adapter(self)) is None:
            return None
        weights = self.base_layer.weight, self.lora_A[name].weight, self.lora_B[name].weight
        return name if LORA.active(x, *weights) else None


class _Linear(Function):
    """x W' + b + s x A' B' and its gradients; x is (rows, inputs), W (outputs, inputs), A and B may be None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, scaling: float, weight: Tensor, *adapter: Any) -> Tensor:
        product = Product(scaling, weight, *adapter)
        ctx.save_for_backward(x if any(ctx.needs_input_grad[3:]) else None, weight, *adapter)
        ctx.scaling = scaling
        output = product.merged(len(x)).output(x)
        return output if bias is None else output.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        product = Product(ctx.scaling, *weights)
        low_rank = product.low_rank_grad(grad)
        x_grad = product.input_grad(grad, low_rank) if ctx.needs_input_grad[0] else None
        bias_grad = grad.sum(0) if ctx.needs_input_grad[1] else None
        return x_grad, bias_grad, None, *product.weight_grads(grad, low_rank, x, ctx.needs_input_grad[3:])
