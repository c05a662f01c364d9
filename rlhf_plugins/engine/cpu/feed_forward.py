"""Gated feed-forward blocks, W_d (silu(W_g x) * W_u x), as one step of autograd.

Autograd would keep four tensors of (tokens, inner width), where two suffice to compute the others again, and allocate
five in the backward pass, where two suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu
from transformers.activations import SiLUActivation

from rlhf_plugins.engine import GATED_BLOCKS
from rlhf_plugins.engine.cpu.product import Product
from rlhf_plugins.engine.cpu.swapping import FAR, swap_class
from rlhf_plugins.engine.layers import GATED

SILU_BACKWARD = torch.ops.aten.silu_backward.grad_input
MANY = 2**15  # elements; with fewer, calls cost more than passes over memory


def fuse_gated_blocks(model: Any) -> Any:
    """The model, with `FusedGatedBlock` for every gated block with SiLU whose trial agrees."""
    for block in model.modules():
        children = dict(block.named_children())
        if {*GATED, "act_fn"} == set(children) and isinstance(block.act_fn, nn.SiLU | SiLUActivation):
            width = getattr(block.gate_proj, "in_features", 0)
            example = torch.linspace(-1, 1, 2 * width).view(1, 2, width)
            swap_class(block, GATED_BLOCKS, FusedGatedBlock, example, FAR * example)
    return model


class FusedGatedBlock(nn.Module):
    """A gated block of layers without bias, each plain or with one plain adapter.

    Anything else, and every block where `GATED_BLOCKS` is not active, is the block's own computation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        products = _layer_products(self, x) if torch.is_grad_enabled() or x.numel() >= MANY else None
        if products is None:
            own: Tensor = super().forward(x)
            return own
        flat = x.reshape(-1, x.shape[-1])
        if torch.is_grad_enabled():
            output = _GatedBlock.apply(flat, [p.scaling for p in products], *(w for p in products for w in p.weights))
        else:
            gates, ups, down = _inner(flat, products)
            output = down.output(silu(gates, inplace=True).mul_(ups))
        return output.view(x.shape)


def _layer_products(block: Any, x: Tensor) -> list[Product] | None:
    """The products that the block's layers compute; None if one of them computes anything else."""
    if not GATED_BLOCKS.active(x):
        return None
    known = [_product(getattr(block, name), x) for name in GATED]
    products = [product for product in known if product is not None]
    return products if len(products) == len(GATED) else None


def _product(layer: Any, x: Tensor) -> Product | None:
    if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):  # they need the layer's own call
        return None
    if hasattr(layer, "product"):  # our own layers
        adapted: Product | None = layer.product(x)
        return adapted
    plain = type(layer) is nn.Linear and layer.bias is None and GATED_BLOCKS.active(layer.weight)
    return Product(1.0, layer.weight) if plain else None


def _inner(x: Tensor, products: Sequence[Product]) -> tuple[Tensor, Tensor, Product]:
    """W_g x and W_u x, (tokens, inner width), and the product of the last layer."""
    gate, up, down = (product.merged(len(x)) for product in products)
    return gate.output(x), up.output(x), down


class _GatedBlock(Function):
    """The block over (tokens, width); saves x, W_g x and W_u x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scalings: Sequence[float], *weights: Tensor | None) -> Tensor:
        gates, ups, down = _inner(x, _products(weights, scalings))
        ctx.save_for_backward(x, gates, ups, *weights)
        ctx.scalings = scalings
        return down.output(silu(gates).mul_(ups))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gates, ups, *weights = ctx.saved_tensors
        gate, up, down = _products(weights, ctx.scalings)
        needed = [ctx.needs_input_grad[start : start + 3] for start in (2, 5, 8)]
        opened = silu(gates)
        low_rank = down.low_rank_grad(grad)
        down_grads = down.weight_grads(grad, low_rank, opened * ups, needed[2])
        inner_grad = down.input_grad(grad, low_rank)
        ups_grad = opened.mul_(inner_grad)
        gates_grad = inner_grad.mul_(ups)
        SILU_BACKWARD(gates_grad, gates, grad_input=gates_grad)
        low_ranks = gate.low_rank_grad(gates_grad), up.low_rank_grad(ups_grad)
        gate_grads = gate.weight_grads(gates_grad, low_ranks[0], x, needed[0])
        up_grads = up.weight_grads(ups_grad, low_ranks[1], x, needed[1])
        x_grad = gate.input_grad(gates_grad, low_ranks[0]) if ctx.needs_input_grad[0] else None
        x_grad = None if x_grad is None else up.input_grad(ups_grad, low_ranks[1], onto=x_grad)
        return x_grad, None, *gate_grads, *up_grads, *down_grads


def _products(weights: Sequence[Any], scalings: Sequence[float]) -> list[Product]:
    return [Product(s, *weights[at : at + 3]) for at, s in zip((0, 3, 6), scalings, strict=True)]
