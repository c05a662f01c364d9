"""Gated feed-forward blocks, W_d (silu(W_g x) * W_u x), as one step of autograd. It knows blocks, no models.

Autograd would keep four tensors of (tokens, inner width), where two are enough to compute the others again, and make
five on the way back, where two are.
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

from rlhf_plugins.engine.cpu.product import Product
from rlhf_plugins.engine.cpu.swapping import swapped

SILU_BACKWARD = torch.ops.aten.silu_backward.grad_input
LAYERS = ("gate_proj", "up_proj", "down_proj")
MANY = 2**15  # numbers: below, calls cost more than passes over memory
FAR = 1e3  # where a block that clamps would show it


def in_one_step(model: Any) -> Any:
    """The model, whose gated blocks with SiLU are computed here from now on where a trial agrees."""
    for block in model.modules():
        children = dict(block.named_children())
        if {*LAYERS, "act_fn"} == set(children) and isinstance(block.act_fn, nn.SiLU | SiLUActivation):
            width = getattr(block.gate_proj, "in_features", 0)
            example = torch.linspace(-1, 1, 2 * width).view(1, 2, width)
            swapped(block, InOneStep, example, FAR * example)
    return model


class InOneStep(nn.Module):
    """A gated block in float32 whose layers are plain or wear one plain adapter; anything else is the model's own."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        products = _products_of(self, x) if torch.is_grad_enabled() or x.numel() >= MANY else None
        if products is None:
            computed: Tensor = super().forward(x)
            return computed
        flat = x.reshape(-1, x.shape[-1])
        if torch.is_grad_enabled():
            mixed = _Gated.apply(flat, [p.scaling for p in products], *(w for p in products for w in p.weights))
        else:
            gates, ups, down = _inner(flat, products)
            mixed = down.of(silu(gates, inplace=True).mul_(ups))
        return mixed.view(x.shape)


def _products_of(block: Any, x: Tensor) -> list[Product] | None:
    """What the block's layers compute of x; None where one of them is not known."""
    known = [_product(getattr(block, name), x) for name in LAYERS]
    products = [product for product in known if product is not None]
    return products if len(products) == len(LAYERS) else None


def _product(layer: Any, x: Tensor) -> Product | None:
    if x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return None
    if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):  # somebody else is watching
        return None
    if hasattr(layer, "product"):  # as ours have
        adapted: Product | None = layer.product(x)
        return adapted
    plain = type(layer) is nn.Linear and layer.bias is None and layer.weight.dtype == torch.float32
    return Product(1.0, layer.weight) if plain else None


def _inner(x: Tensor, products: Sequence[Product]) -> tuple[Tensor, Tensor, Product]:
    """W_g x and W_u x, (tokens, inner width), and what makes (tokens, width) of them."""
    gate, up, down = (product.summed(len(x)) for product in products)
    return gate.of(x), up.of(x), down


class _Gated(Function):
    """The block of (tokens, width); saves x, W_g x and W_u x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scalings: Sequence[float], *weights: Tensor | None) -> Tensor:
        gates, ups, down = _inner(x, _products(weights, scalings))
        ctx.save_for_backward(x, gates, ups, *weights)
        ctx.scalings = scalings
        return down.of(silu(gates).mul_(ups))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, gates, ups, *weights = ctx.saved_tensors
        gate, up, down = _products(weights, ctx.scalings)
        needed = [ctx.needs_input_grad[start : start + 3] for start in (2, 5, 8)]
        opened = silu(gates)
        low = down.of_inner(gradient)
        of_down = down.of_weights(gradient, low, opened * ups, needed[2])
        of_mixed = down.of_input(gradient, low)
        of_ups = opened.mul_(of_mixed)
        of_gates = of_mixed.mul_(ups)
        SILU_BACKWARD(of_gates, gates, grad_input=of_gates)
        lows = gate.of_inner(of_gates), up.of_inner(of_ups)
        of_gate = gate.of_weights(of_gates, lows[0], x, needed[0])
        of_up = up.of_weights(of_ups, lows[1], x, needed[1])
        of_x = gate.of_input(of_gates, lows[0]) if ctx.needs_input_grad[0] else None
        of_x = None if of_x is None else up.of_input(of_ups, lows[1], onto=of_x)
        return of_x, None, *of_gate, *of_up, *of_down


def _products(weights: Sequence[Any], scalings: Sequence[float]) -> list[Product]:
    return [Product(s, *weights[at : at + 3]) for at, s in zip((0, 3, 6), scalings, strict=True)]
