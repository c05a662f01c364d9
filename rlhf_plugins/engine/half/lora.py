"""LoRA layers under autocast as one step of autograd, and fewer launches on a GPU.

PEFT's layer on a base in half precision computes W x, A x, B A x, s B A x and their sum as five tensors, each of them
rounded, and autograd keeps its input for each product. Here the product of the adapter is added to the product of the
base in place, in the forward pass to the output and in the backward pass to the gradient of the input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rlhf_plugins.engine import CASTS, HALF_GRADIENTS, HALF_LORA, casts, pretended
from rlhf_plugins.engine.half import trials

ROWS, RANK = 8, 4  # of a trial
TO_SINGLE = torch.ops.aten.addmm.dtype  # of half precision, with a result in float32

Pair = tuple[Tensor, Tensor]  # A and B


def fuse_lora(model: Any) -> Any:
    """The model, with our layers for every LoRA layer of PEFT on a linear layer, or a 4-bit one of bitsandbytes."""
    for layer in model.modules():
        if type(layer) is lora.Linear and CASTS.active(layer.get_base_layer().weight):
            layer.__class__ = Linear
        elif _is_four_bit(layer) and HALF_LORA.active(layer.get_base_layer().weight):
            from rlhf_plugins.engine.half.four_bit import Linear4bit

            layer.__class__ = Linear4bit
    return model


def _is_four_bit(layer: Any) -> bool:
    """Whether a layer is PEFT's own on a 4-bit layer; asked without importing bitsandbytes."""
    kind = type(layer)
    return (kind.__module__, kind.__name__) == (f"{lora.__name__}.bnb", "Linear4bit")


class Linear(casts.Linear):  # PEFT reads this name, as that of `casts`
    """PEFT's LoRA layer; on a linear layer in half precision one plain active adapter is fused with it."""

    takes_casts = True

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        output = None if args or kwargs else adapted(self, x)
        if output is None:
            own: Tensor = super().forward(x, *args, **kwargs)
            return own
        return output


class Kind(NamedTuple):
    """The kind of the layer below an adapter.

    Args:
        computes: whether W x + b of a layer under autocast is computed in this half precision, and nothing else.
        matrix: W, (outputs, inputs), in half precision.
    """

    computes: Callable[[Any, Tensor, torch.dtype], bool]
    matrix: Callable[[Any], Tensor]


def _dense(base: Any, x: Tensor, half: torch.dtype) -> bool:
    return type(base) is nn.Linear and base.weight.dtype == half and x.dtype in (half, torch.float32)


DENSE = Kind(_dense, lambda base: base.weight)


def adapted(layer: Any, x: Tensor, kind: Kind = DENSE) -> Tensor | None:
    """W x + b + s B A x of a LoRA layer, (..., outputs); None where PEFT has to compute it.

    Args:
        layer: the layer of PEFT.
        x: (..., inputs).
        kind: the kind of its base.
    """
    from rlhf_plugins.contract import processes

    half = trials.precision(x.device.type) if HALF_LORA.active(x) and not processes.shards() else None
    name = None if half is None else casts.plain_adapter(layer)
    if half is None or name is None or not kind.computes(layer.base_layer, x, half):
        return None
    base, down, up = layer.base_layer, layer.lora_A[name], layer.lora_B[name]
    if any(map(_is_watched, (base, down, up))) or not {down.weight.dtype, up.weight.dtype} <= {half, torch.float32}:
        return None
    if not _agrees(base, x, down.weight, kind):
        return None
    flat, cast = x.reshape(-1, x.shape[-1]), casts.in_half(layer, down.weight, up.weight, half)
    output = _computed(flat, (down.weight, up.weight), cast, layer.scaling[name], (base, kind))
    return output.view(*x.shape[:-1], output.shape[-1])


def _computed(x: Tensor, weights: Pair, cast: Pair, scaling: float, below: tuple[Any, Kind]) -> Tensor:
    """The layer's output for x, (rows, inputs); A and B are given as they are and in half precision."""
    if torch.is_grad_enabled():
        output: Tensor = _Adapted.apply(x, *weights, cast, scaling, below)
        return output
    return _forward(x, cast, scaling, below[0])[0]


def _is_watched(module: Any) -> bool:
    """Whether something wants a module's own call: a hook, as of weights in shards, or another `forward`."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _agrees(base: Any, x: Tensor, down: Tensor, kind: Kind) -> bool:
    """Whether a layer with an adapter of this precision computes as PEFT's does, gradients too; one trial per shape."""
    shape = base.in_features, base.out_features, base.bias is None
    half = torch.get_autocast_dtype(x.device.type)
    return trials.passes(
        HALF_LORA,
        x.device,
        (kind, type(base), shape, x.dtype, half, down.dtype),
        lambda: _trial(base, x, down.dtype, kind),
    )


def _trial(base: Any, example: Tensor, dtype: torch.dtype, kind: Kind) -> bool:
    half, scaling = torch.get_autocast_dtype(example.device.type), 0.5
    x = trials.wave(ROWS, base.in_features, like=example).requires_grad_()
    down = trials.wave(RANK, base.in_features, like=x, dtype=dtype).div_(base.in_features**0.5).requires_grad_()
    up = trials.wave(base.out_features, RANK, like=x, dtype=dtype).requires_grad_()
    linear = nn.functional.linear
    outputs = (
        _computed(x, (down, up), (down.to(half), up.to(half)), scaling, (base, kind)),
        base(x) + linear(linear(x, down), up) * scaling,
    )
    towards = trials.wave(ROWS, base.out_features, like=example, dtype=half)
    found = [(each.detach(), *torch.autograd.grad(each, (x, down, up), towards.to(each.dtype))) for each in outputs]
    same = all(one.dtype == other.dtype for one, other in zip(*found, strict=True))
    return same and trials.within_rounding(found[0], found[1], half)


def _forward(x: Tensor, cast: Pair, scaling: float, base: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The output, (rows, outputs), and x and A x in half precision."""
    down, up = cast
    x = x.to(down.dtype)
    low = x @ down.t()
    return base(x).addmm_(low, up.t(), alpha=scaling), x, low


class _Adapted(Function):
    """x W' + b + s x A' B' and its gradients; x is (rows, inputs); the gradients of A and B are in their precision."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, up: Tensor, cast: Pair, scaling: float, below: tuple[Any, Kind]
    ) -> Tensor:
        output, *kept = _forward(x, cast, scaling, below[0])
        ctx.save_for_backward(*kept, *cast)
        ctx.below, ctx.scaling, ctx.dtypes = below, scaling, (down.dtype, up.dtype)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, low, down, up = ctx.saved_tensors
        x_grad = down_grad = up_grad = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            low_grad = grad @ up
        if ctx.needs_input_grad[0]:
            base, kind = ctx.below
            x_grad = (grad @ kind.matrix(base)).addmm_(low_grad, down, alpha=ctx.scaling)
        if ctx.needs_input_grad[1]:
            down_grad = _gradient(low_grad.t(), x, ctx.scaling, ctx.dtypes[0])
        if ctx.needs_input_grad[2]:
            up_grad = _gradient(grad.t(), low, ctx.scaling, ctx.dtypes[1])
        return x_grad, down_grad, up_grad, *[None] * 3


def _gradient(left: Tensor, right: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    """s left right in the precision of the weights: rounded to half precision only where a device needs it."""
    single = dtype == torch.float32 and not pretended() and HALF_GRADIENTS.active(left)
    if single and trials.passes(HALF_GRADIENTS, left.device, left.dtype, lambda: _keeps_single(left)):
        return _single(left, right, scaling)
    result = left.new_empty(left.shape[0], right.shape[1])
    return result.addmm_(left, right, beta=0, alpha=scaling).to(dtype)


def _single(left: Tensor, right: Tensor, scaling: float) -> Tensor:
    unread = left.new_empty(1).expand(left.shape[0], right.shape[1])  # some versions of torch take no other
    product: Tensor = TO_SINGLE(unread, left, right, torch.float32, beta=0, alpha=scaling)
    return product


def _keeps_single(like: Tensor) -> bool:
    """Whether a product of half precision in float32 is that of the same numbers in float32."""
    left, right = trials.wave(5, 64, like=like), trials.wave(64, 7, like=like)
    found, exact = _single(left, right, 0.7), 0.7 * (left.double() @ right.double())
    return found.dtype == torch.float32 and bool((found - exact).abs().max() <= 1e-4 * exact.abs().max())
