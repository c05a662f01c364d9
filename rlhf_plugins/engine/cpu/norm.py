"""Root-mean-square norms in few passes over memory, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rlhf_plugins.engine import NORMS
from rlhf_plugins.engine.cpu.swapping import swap_class

LAYER_NORM_BACKWARD = torch.ops.aten.native_layer_norm_backward


def fuse_norms(model: Any) -> Any:
    """The model, with `FusedRMSNorm` for every RMS norm whose trial agrees."""
    for norm in model.modules():
        weight = getattr(norm, "weight", None)
        if type(norm).__name__.endswith("RMSNorm") and isinstance(weight, nn.Parameter) and weight.dim() == 1:
            swap_class(norm, NORMS, FusedRMSNorm, torch.linspace(-1, 2, 2 * len(weight)).view(1, 2, -1))
    return model


class FusedRMSNorm(nn.Module):
    """x w / rms(x); the norm's own computation where `NORMS` is not active."""

    weight: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        if not NORMS.active(x, self.weight):
            own: Tensor = super().forward(x)
            return own
        epsilon: float = getattr(self, "variance_epsilon", getattr(self, "eps", 0.0))
        if not torch.is_grad_enabled():
            return _rms_norm(x, self.weight, epsilon)[0]
        normed: Tensor = _RMSNorm.apply(x.reshape(-1, x.shape[-1]), self.weight, epsilon)
        return normed.view(x.shape)


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The norm of (..., width), and 1 / sqrt(mean(x^2) + epsilon), (..., 1)."""
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    inverse = squares.div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * inverse).mul_(weight), inverse


class _RMSNorm(Function):
    """x w / sqrt(mean(x^2) + epsilon) (Zhang and Sennrich 2019, equation 4); x is (tokens, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        normed, inverse = _rms_norm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The kernel of layer norm, with a mean of 0; it subtracts r mean(g w), which is added back."""
        x, weight, inverse = ctx.saved_tensors
        width, needed = [x.shape[-1]], [True, ctx.needs_input_grad[1], False]
        grad, mean = grad.contiguous(), torch.zeros_like(inverse)
        x_grad, weight_grad, _ = LAYER_NORM_BACKWARD(grad, x, width, mean, inverse, weight, None, needed)
        x_grad += inverse * (grad @ weight).div_(width[0]).unsqueeze(1)
        return x_grad, weight_grad, None
