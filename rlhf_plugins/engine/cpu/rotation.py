"""Rotary position embeddings without copies of halves. It knows how models call them, not what for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import Parameter, signature
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

NAME = "apply_rotary_pos_emb"  # what transformers calls the rotation in every model's own file

CALLED = {"q": True, "k": True, "cos": True, "sin": True, "unsqueeze_dim": False}  # what must be given

Rotate = Callable[..., tuple[Tensor, Tensor]]


def in_halves(model: Any) -> Any:
    """The model, whose attention layers rotate queries and keys here from now on where a trial agrees."""
    for module in model.modules():
        forward = type(module).forward
        own = getattr(forward, "__globals__", {}).get(NAME)
        known = own is None or own.__module__ == __name__  # not there, or ours already
        if not known and NAME in forward.__code__.co_names and _agrees(own):
            module.__class__ = _rotating(cast(Any, type(module)))
    return model


@cache
def _rotating(own: Any) -> Any:
    """The class with its own `forward`, in which one name stands for another function."""
    forward = own.forward
    names = {**forward.__globals__, NAME: rotating(forward.__globals__[NAME])}
    copied = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copied.__kwdefaults__ = forward.__kwdefaults__
    body = {"forward": copied, "__module__": own.__module__, "__qualname__": own.__qualname__}
    return type(own.__name__, (own,), body)


def rotating(own: Rotate) -> Rotate:
    """A model's own function, but for float32 on a CPU whole heads are rotated here."""

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        known = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (q, k, cos, sin))
        if not known or not q.shape[-1] == k.shape[-1] == cos.shape[-1] == sin.shape[-1]:
            return own(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
        angles = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        turn = _Rotated.apply if torch.is_grad_enabled() else _turned
        return turn(q, *angles), turn(k, *angles)

    return rotate


@cache
def _agrees(own: Rotate) -> bool:
    """Whether a model's own function is called as ours is, and rotates a head's first half by the second."""
    if {p.name: p.default is Parameter.empty for p in signature(own).parameters.values()} != CALLED:
        return False
    q, k = torch.linspace(-1, 1, 48).view(1, 2, 3, 8), torch.linspace(1, 2, 24).view(1, 1, 3, 8)
    angles = torch.linspace(0, 3, 48).view(2, 1, 3, 8)
    try:
        expected = own(q, k, *angles)
    except (TypeError, ValueError, RuntimeError, IndexError):  # other arguments
        return False
    found = rotating(own)(q, k, *angles)
    return all(
        one.shape == other.shape and torch.allclose(one, other) for one, other in zip(found, expected, strict=True)
    )


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(x1 cos1 - x2 sin1, x2 cos2 + x1 sin2) of halves 1 and 2 of the last dimension (Su et al. 2021, equation 34)."""
    (x1, x2), (sin1, sin2) = x.chunk(2, -1), sin.chunk(2, -1)
    turned = x * cos
    low, high = turned.chunk(2, -1)
    low.addcmul_(x2, sin1, value=-1)
    high.addcmul_(x1, sin2)
    return turned


class _Rotated(Function):
    """`_turned`, and its gradient, which turns back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        (of_low, of_high), (sin1, sin2) = gradient.chunk(2, -1), sin.chunk(2, -1)
        of_x = gradient * cos
        of_x1, of_x2 = of_x.chunk(2, -1)
        of_x1.addcmul_(of_high, sin2)
        of_x2.addcmul_(of_low, sin1, value=-1)
        return of_x, None, None
