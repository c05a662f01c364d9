"""Operations that are one kernel on a GPU and several, or none, on a CPU: for a test, one on the CPU too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import library as extension
from torch.nn.functional import gelu, silu

Activation = Callable[..., Tensor]


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """For the block, RMS norm and its gradient are one operation each, and a product in half precision can be float32.

    As the GPU's kernels they compute in float32, and a norm rounds once; torch's CPU has none of them.
    """
    library = extension.Library("aten", "IMPL")
    library.impl("_fused_rms_norm", _rms_norm, "CPU")
    library.impl("_fused_rms_norm_backward", _gradients, "CPU")
    library.impl("addmm.dtype", _product, "CPU")
    try:
        yield
    finally:
        library._destroy()


def _rms_norm(x: Tensor, shape: list[int], weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    assert weight.dtype == x.dtype  # the GPU's kernel reads both as one type
    single = x.float()
    inverse = (single.square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return (single * inverse * weight.float()).to(x.dtype), inverse


def _gradients(
    grad: Tensor, x: Tensor, shape: list[int], inverse: Tensor, weight: Tensor, needed: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Of y = w n with n = x r: r (g w - n mean(g w n)), and the sum of g n over rows."""
    normed, towards = x.float() * inverse, grad.float() * weight.float()
    x_grad = inverse * (towards - normed * (towards * normed).mean(-1, keepdim=True))
    rows = tuple(range(x.dim() - 1))
    weight_grad = (grad.float() * normed).sum(rows).to(weight.dtype) if needed[1] else None
    return x_grad.to(x.dtype), weight_grad


def _product(
    unread: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    assert unread.dtype == left.dtype == right.dtype != dtype
    assert (unread.shape, beta) == ((left.shape[0], right.shape[1]), 0)
    return (alpha * (left.double() @ right.double())).to(dtype)  # autocast leaves float64 alone


# ---- Liger -------------------------------------------------------------------------------------------------
@contextmanager
def as_with_liger(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """For the block, the package of that name is there, with the kernels that are used, each an operation of torch.

    They round where its kernels do, and write gradients over gate and up.
    """
    library = extension.Library("liger_like", "DEF")
    root = ModuleType("liger_kernel")
    root.__spec__ = ModuleSpec("liger_kernel", None)
    patch.setitem(sys.modules, "liger_kernel", root)
    patch.setitem(sys.modules, "liger_kernel.ops", ModuleType("liger_kernel.ops"))
    tanh, aten = {"approximate": "tanh"}, torch.ops.aten
    acts = ("swiglu", silu, aten.silu_backward), ("geglu", partial(gelu, **tanh), partial(aten.gelu_backward, **tanh))
    for name, act, slope in acts:
        library.define(f"{name}(Tensor gate, Tensor up) -> Tensor")
        library.define(f"{name}_slopes(Tensor(a!) gate, Tensor(b!) up, Tensor grad) -> (Tensor(a!), Tensor(b!))")
        library.impl(name, partial(_gated, act), "CPU")
        library.impl(f"{name}_slopes", partial(_slopes, slope, act), "CPU")
        module: Any = ModuleType(f"liger_kernel.ops.{name}")
        patch.setitem(sys.modules, module.__name__, module)
        setattr(module, f"{name}_forward", partial(_forward, getattr(torch.ops.liger_like, name)))
        setattr(module, f"{name}_backward", partial(_backward, getattr(torch.ops.liger_like, f"{name}_slopes")))
    try:
        yield
    finally:
        library._destroy()


def _forward(kernel: Any, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return gate, up, kernel(gate, up)


def _backward(kernel: Any, gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    kernel(gate.data, up.data, grad)  # so that autograd does not see that both are written to
    return gate, up


def _gated(act: Activation, gate: Tensor, up: Tensor) -> Tensor:
    assert gate.is_contiguous()
    assert up.is_contiguous()
    return act(gate.float()).to(up.dtype) * up


def _slopes(slope: Activation, act: Activation, gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    assert all(each.is_contiguous() for each in (gate, up, grad))
    single, towards = gate.float(), grad.float()
    return gate.copy_(slope(towards * up.float(), single)), up.copy_(act(single) * towards)
