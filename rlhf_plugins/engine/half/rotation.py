"""Rotary position embeddings in half precision: three launches each way, not five and nine.

The computation is that of `engine/cpu`, which rounds twice where the models' own rounds three times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.engine import HALF_ROTATIONS
from rlhf_plugins.engine.cpu.rotation import NAME, Kind, Rotate, agrees, rotate_by, rotated
from rlhf_plugins.engine.half import trials


def fuse_half_rotations(model: Any) -> Any:
    """The model, if it is in half precision, with attention layers that rotate queries and keys here."""
    return rotate_by(model, HALF) if trials.is_half(model.dtype) and HALF_ROTATIONS.active(model) else model


def _computes(own: Rotate, *given: Tensor) -> bool:
    """Whether all are in the same half precision, and the trials of the function and of the device pass."""
    first = given[0]
    if not HALF_ROTATIONS.active(first) or not trials.is_half(first.dtype) or not agrees(own):
        return False
    same = {each.dtype for each in given} == {first.dtype}
    return same and trials.passes(HALF_ROTATIONS, first.device, (own, first.dtype), lambda: _trial(own, first))


HALF = Kind(f"{NAME} of rlhf_plugins in half precision", _computes)


def _trial(own: Rotate, like: Tensor) -> bool:
    """Whether results and gradients are the function's in float32, to the rounding that its own have."""
    q, k = trials.wave(2, 3, 5, 16, like=like), trials.wave(2, 1, 5, 16, like=like)
    angles = torch.linspace(0, 3, 5 * 8, device=like.device).view(1, 5, 8).repeat(1, 1, 2)
    cos, sin = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
    ours, theirs = ([x.detach().to(dtype).requires_grad_() for x in (q, k)] for dtype in (like.dtype, torch.float32))
    found = [rotated(x, cos.unsqueeze(1), sin.unsqueeze(1)) for x in ours]
    expected = own(*theirs, cos.float(), sin.float())
    grads = torch.autograd.grad(found, ours, [k.expand_as(q), k])
    exact = torch.autograd.grad(expected, theirs, [k.expand_as(q).float(), k.float()])
    return trials.as_rounded([*found, *grads], [*expected, *exact], terms=0.5)
