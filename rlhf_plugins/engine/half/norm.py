"""Root-mean-square norms in half precision by torch's own kernel, forward and backward. It knows norms, no models.

transformers computes such a norm by seven operations, of which four pass over float32 copies of its input.
torch's `rms_norm` would be one, but autocast casts its input to float32 first; the operation below it is not cast.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from rlhf_plugins.engine import HALF_NORMS
from rlhf_plugins.engine.cpu.swapping import subclass
from rlhf_plugins.engine.half import trials

RMS_NORM = torch.ops.aten._fused_rms_norm
BACKWARD = "FusedRmsNormBackward0"  # the step of autograd, where a device has the kernel


def fuse_half_norms(model: Any) -> Any:
    """The model, with `HalfRMSNorm` for every RMS norm that has a weight in half precision."""
    for norm in model.modules():
        weight = getattr(norm, "weight", None)
        if type(norm).__name__.endswith("RMSNorm") and isinstance(weight, nn.Parameter) and weight.dim() == 1:
            own: Any = type(norm)
            if trials.is_half(weight.dtype) and HALF_NORMS.active(weight) and not issubclass(own, HalfRMSNorm):
                norm.__class__ = subclass(cast(Any, HalfRMSNorm), own)
    return model


class HalfRMSNorm(nn.Module):
    """x w / rms(x), rounded once; the norm's own computation in other precisions, and where a trial fails."""

    weight: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        if not (x.dtype == self.weight.dtype and trials.is_half(x.dtype) and HALF_NORMS.active(x) and _agrees(self, x)):
            own: Tensor = super().forward(x)
            return own
        normed: Tensor = RMS_NORM(x, self.weight.shape, self.weight, _epsilon(self))[0]
        return normed


def _epsilon(norm: Any) -> float:
    found: float = getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0))
    return found


def _agrees(norm: Any, x: Tensor) -> bool:
    key = type(norm), len(norm.weight), _epsilon(norm), x.device, x.dtype
    return trials.passes(HALF_NORMS, key, lambda: _trial(norm, x))


def _trial(norm: Any, like: Tensor) -> bool:
    """Whether output and gradient are the norm's own in float32, to the rounding that its own in half precision has."""
    weight = norm.weight.detach()
    x = trials.wave(3, len(weight), like=like) * torch.tensor([[1.0], [0.01], [30.0]], device=like.device).to(
        like.dtype
    )
    ours, theirs = x.detach().requires_grad_(), x.detach().float().requires_grad_()
    output, expected = RMS_NORM(ours, weight.shape, weight, _epsilon(norm))[0], super(HalfRMSNorm, norm).forward(theirs)
    if output.grad_fn.name() != BACKWARD or output.dtype != like.dtype:
        return False
    towards = trials.wave(*x.shape, like=like)
    grads = torch.autograd.grad(output, ours, towards), torch.autograd.grad(expected, theirs, towards.float())
    return trials.as_rounded([output, *grads[0]], [expected, *grads[1]])
