"""Kernels of a GPU that no CPU has, by stand-ins with the same allocations, without the computation.

An RMS norm of torch's CUDA kernel makes its result and 1 / rms of each row in float32, and keeps its input beside both
(`_fused_rms_norm` in torch's layer_norm_kernel.cu and derivatives.yaml). Liger's kernels of gated blocks make the
result, and write the gradients of gate and up over these (`liger_kernel/ops/swiglu.py`, `geglu.py`). What is not
contiguous is copied for a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rlhf_plugins.engine.half.gated import Kernel, liger
from rlhf_plugins.engine.half.norm import RMS_NORM
from rlhf_plugins.engine.shared_keys import fused


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, _: Any, weight: Tensor, __: float) -> tuple[Tensor, Tensor]:
        """(..., width) -> (..., width), and 1 / rms, (..., 1)."""
        read, inverse = x.contiguous(), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
        ctx.save_for_backward(x, weight, inverse)
        ctx.mark_non_differentiable(inverse)
        ctx.set_materialize_grads(False)
        return torch.empty_like(read), inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        """The gradient of x alone: a norm that is trained is in float32, and computed by transformers."""
        read = ctx.saved_tensors[0].contiguous(), grad.contiguous()
        return torch.empty_like(read[0]), None, None, None


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return torch.empty_like(gate)


def _slopes(gate: Tensor, up: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return gate, up


KERNELS: Mapping[Any, Any] = {
    RMS_NORM: _RmsNorm.apply,
    liger: lambda _: Kernel(_gated, _slopes),
    fused: lambda _: False,  # a CPU's fused kernel shares no keys: they are repeated, which is a little more than there
}
