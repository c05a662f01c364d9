"""Operations that are one kernel on a GPU and several, or none, on a CPU: for a test, one on the CPU too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.library import Library


@contextmanager
def rms_norm_as_on_a_gpu() -> Iterator[None]:
    """For the block, RMS norm and its gradient are one operation each, which computes in float32 and rounds once.

    So does the GPU's kernel; torch's CPU has none, and computes the norm by eight operations.
    """
    library = Library("aten", "IMPL")
    library.impl("_fused_rms_norm", _rms_norm, "CPU")
    library.impl("_fused_rms_norm_backward", _gradients, "CPU")
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
