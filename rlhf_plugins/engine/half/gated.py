"""Gated feed-forward blocks in half precision by the kernels of Liger, one launch each way.

torch computes act(gate) * up by two operations, and its gradients by three. Liger's kernels do it by one each way, and
keep gate and up alone. They compute in float32 what torch rounds in between. Liger is an optional package.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import increment_version
from transformers.activations import GELUTanh, SiLUActivation

from rlhf_plugins.engine import HALF_GATED, kernel, pretended
from rlhf_plugins.engine.cpu.swapping import FAR, subclass
from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.layers import GATED

PACKAGE = "liger_kernel"
NAMES: dict[type[nn.Module], str] = {nn.SiLU: "swiglu", SiLUActivation: "swiglu", GELUTanh: "geglu"}  # of its modules


class Kernel(NamedTuple):
    """act(gate) * up for tensors of one shape that are contiguous.

    Args:
        forward: the result, given gate and up.
        backward: the gradients of gate and up, given both and the gradient of the result; they are written over both.
    """

    forward: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def fuse_half_gated(model: Any) -> Any:
    """The model, with `HalfGatedBlock` for every gated block with an activation of which Liger has a kernel."""
    if trials.is_half(model.dtype) and HALF_GATED.active(model) and find_spec(PACKAGE) is not None:
        for block in model.modules():
            children = dict(block.named_children())
            known = {*GATED, "act_fn"} == set(children) and type(block.act_fn) in NAMES
            if known and not isinstance(block, HalfGatedBlock):
                block.__class__ = subclass(cast(Any, HalfGatedBlock), cast(Any, type(block)))
    return model


class HalfGatedBlock(nn.Module):
    """W_d (act(W_g x) * W_u x); the block's own computation in other precisions, and where a trial fails.

    So it is where something sees what its first two layers return, over which the gradients are written.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        block: Any = self
        if not (trials.is_half(x.dtype) and HALF_GATED.active(x) and not _is_watched(block) and _agrees(block, x)):
            own: Tensor = super().forward(x)
            return own
        gate, up = block.gate_proj(x), block.up_proj(x)
        known = {gate.dtype, up.dtype} == {x.dtype}
        inner = gated(gate, up, _kernel(block)) if known else block.act_fn(gate) * up
        output: Tensor = block.down_proj(inner)
        return output


def _is_watched(block: Any) -> bool:
    return any(layer._forward_hooks for layer in (block.gate_proj, block.up_proj))


def _kernel(block: Any) -> Kernel:
    return kernel(liger)(NAMES[type(block.act_fn)])


@cache
def liger(name: str) -> Kernel:
    """The kernels of one of Liger's modules. Raises ImportError, or what else its import raises, such as of Triton."""
    module = import_module(f"{PACKAGE}.ops.{name}")
    forward, backward = (getattr(module, f"{name}_{way}") for way in ("forward", "backward"))
    return Kernel(lambda gate, up: forward(gate, up)[-1], lambda gate, up, grad: backward(gate, up, grad))


def gated(gate: Tensor, up: Tensor, kernel: Kernel) -> Tensor:
    """act(gate) * up of (..., inner width)."""
    gate, up = gate.contiguous(), up.contiguous()
    result: Tensor = _Gated.apply(gate, up, kernel) if torch.is_grad_enabled() else kernel.forward(gate, up)
    return result


class _Gated(Function):
    """act(gate) * up; saves both, and its gradients take their place."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kernel: Kernel) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.kernel = kernel
        return kernel.forward(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        found = ctx.kernel.backward(gate, up, grad.contiguous())
        for each in (gate, up):
            increment_version(each)  # torch does not see what a kernel writes, and has to refuse a second pass
        return *found, None


# ---- trials ------------------------------------------------------------------------------------------------
def _agrees(block: Any, x: Tensor) -> bool:
    if pretended() and not trials.by_numbers(lambda like: _is_gated(block, like)):
        return False
    width = getattr(block.gate_proj, "out_features", 0)
    key = type(block), type(block.act_fn), width, x.dtype
    return trials.passes(HALF_GATED, x.device, key, lambda: _trial(block, width, x))


def _is_gated(block: Any, like: Tensor) -> bool:
    """Whether the block computes act(gate) * up and nothing else, in exact numbers."""
    gate, up = trials.wave(2, 3, 8, like=like) * FAR
    own: Tensor = super(HalfGatedBlock, _with_layers(block, gate, up)).forward(gate)
    return torch.allclose(own, block.act_fn(gate) * up)


def _trial(block: Any, width: int, like: Tensor) -> bool:
    from rlhf_plugins.engine.out_of_memory import inconclusive

    try:
        return all(_computes_alike(block, trials.wave(3, width, like=like) * scale) for scale in (1.0, 4.0, FAR))
    except Exception as error:  # Triton fails in many ways, for want of a compiler among them
        if inconclusive(error):
            raise
        return False


def _computes_alike(block: Any, gate: Tensor) -> bool:
    """Whether the block computes act(gate) * up and nothing else, output and gradients in float32 to two roundings."""
    up, towards = trials.wave(*gate.shape, like=gate).flip(-1), trials.wave(*gate.shape, like=gate).flip(0)
    ours, theirs = (
        [each.to(dtype).clone().requires_grad_() for each in (gate, up)] for dtype in (gate.dtype, torch.float32)
    )
    output = gated(ours[0], ours[1], _kernel(block))
    expected = super(HalfGatedBlock, _with_layers(block, *theirs)).forward(gate.float())
    grads = torch.autograd.grad(output, ours, towards), torch.autograd.grad(expected, theirs, towards.float())
    same = {each.dtype for each in (output, *grads[0])} == {gate.dtype}
    return same and trials.as_rounded([output, *grads[0]], [expected, *grads[1]])


def _with_layers(block: Any, gate: Tensor, up: Tensor) -> Any:
    """The block, whose first two layers return these tensors, and whose last changes nothing."""
    found = copy(block)
    layers = dict(zip(GATED, (_Returns(gate), _Returns(up), nn.Identity()), strict=True))
    vars(found)["_modules"] = {**layers, "act_fn": block.act_fn}
    return found


class _Returns(nn.Module):
    def __init__(self, made: Tensor) -> None:
        super().__init__()
        self.made = made

    def forward(self, _: Tensor) -> Tensor:
        return self.made
