"""Root-mean-square norms in half precision by torch's own kernel, forward and backward.

transformers computes such a norm by seven operations, of which four pass over float32 copies of its input.
torch's `rms_norm` would be one, but autocast casts its input to float32 first; the operation below it is not cast.
Norms with a factor 1 + w, as Gemma's, are the kernel over float32: 1 + w in half precision would be a rounding more.
"""

from __future__ import annotations

from copy import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from rlhf_plugins.engine import HALF_NORMS, kernel, pretended
from rlhf_plugins.engine.cpu.swapping import subclass
from rlhf_plugins.engine.half import trials

RMS_NORM = torch.ops.aten._fused_rms_norm
GRADIENT = "_fused_rms_norm_backward"  # the operator of torch versions that have the kernel for CUDA
BACKWARD = "FusedRmsNormBackward0"  # the step of autograd, where a device has the kernel
_ADDED: dict[Any, float] = {}  # by kind of norm, of this process


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
    """x (a + w) / rms(x), rounded once; the norm's own computation in other precisions, and where a trial fails."""

    weight: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        known = x.dtype == self.weight.dtype and trials.is_half(x.dtype) and HALF_NORMS.active(x)
        added = _added(self, x) if known else None
        if added is None:
            own: Tensor = super().forward(x)
            return own
        return _normed(self, x, self.weight, added)


def _normed(norm: Any, x: Tensor, weight: Tensor, added: float) -> Tensor:
    if added:
        exact: Tensor = kernel(RMS_NORM)(x.float(), weight.shape, weight.float() + added, _epsilon(norm))[0]
        return exact.to(x.dtype)
    normed: Tensor = kernel(RMS_NORM)(x, weight.shape, weight, _epsilon(norm))[0]
    return normed


def _epsilon(norm: Any) -> float:
    found: float = getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0))
    return found


def _added(norm: Any, x: Tensor) -> float | None:
    """What is added to the weights of a norm of this kind; None where the kernel computes another."""
    key = type(norm), len(norm.weight), _epsilon(norm), x.device, x.dtype
    if pretended():
        added = trials.by_numbers(lambda like: _added_by_numbers(norm, like))
        return added if added is not None and trials.passes(HALF_NORMS, x.device, key, lambda: False) else None
    return _ADDED[key] if trials.passes(HALF_NORMS, x.device, key, lambda: _trial(norm, x, key)) else None


def _added_by_numbers(norm: Any, like: Tensor) -> float | None:
    """The same in exact numbers, whatever the device, if this torch has the kernel for any."""
    if not hasattr(torch.ops.aten, GRADIENT):
        return None
    x, weight, plain = trials.wave(3, len(norm.weight), like=like), trials.wave(len(norm.weight), like=like), copy(norm)
    vars(plain)["_parameters"] = {"weight": nn.Parameter(weight)}
    own: Tensor = super(HalfRMSNorm, plain).forward(x)
    exact = x * (x.square().mean(-1, keepdim=True) + _epsilon(norm)).rsqrt()
    return next((added for added in (0.0, 1.0) if torch.allclose(own, exact * (added + weight), atol=1e-6)), None)


def _trial(norm: Any, x: Tensor, key: Any) -> bool:
    for added in (0.0, 1.0):
        if _computes_alike(norm, x, added):
            _ADDED[key] = added
            return True
    return False


def _computes_alike(norm: Any, like: Tensor, added: float) -> bool:
    """Whether output and gradient are the norm's own in float32, to the rounding that its own in half precision has."""
    weight = norm.weight.detach()
    x = trials.wave(3, len(weight), like=like) * torch.tensor([[1.0], [0.01], [30.0]], device=like.device).to(
        like.dtype
    )
    ours, theirs = x.detach().requires_grad_(), x.detach().float().requires_grad_()
    output, expected = _normed(norm, ours, weight, added), super(HalfRMSNorm, norm).forward(theirs)
    if not _by_kernel(output) or output.dtype != like.dtype:
        return False
    towards = trials.wave(*x.shape, like=like)
    grads = torch.autograd.grad(output, ours, towards), torch.autograd.grad(expected, theirs, towards.float())
    return trials.as_rounded([output, *grads[0]], [expected, *grads[1]])


def _by_kernel(output: Tensor) -> bool:
    """Whether a device has the kernel, and torch computes the norm by no other operations."""
    step: Any = output.grad_fn
    return BACKWARD in (step.name(), *(inner.name() for inner, _ in step.next_functions if inner is not None))
