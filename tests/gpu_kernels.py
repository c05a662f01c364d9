"""Operations that are one kernel on a GPU and several, or none, on a CPU: for a test, one on the CPU too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import library as extension


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
