"""Rotary position embeddings without copies of halves.

Attention layers of transformers call a global function of their own module. A layer gets a subclass whose `forward` is
the same code over the same live globals, in which the call goes to another name of that module, which is ours. So other
globals that change later are seen; and the module's own function is looked up at each call: if it is another than the
one that a trial compared, it gets a trial of its own.
"""

from __future__ import annotations

import dis
from collections.abc import Callable
from functools import cache, wraps
from inspect import Parameter, signature
from types import FunctionType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rlhf_plugins.engine import ROTATIONS

NAME = "apply_rotary_pos_emb"  # the function's name in every model's own module
PARAMETERS = {"q": True, "k": True, "cos": True, "sin": True, "unsqueeze_dim": False}  # whether required

Rotate = Callable[..., tuple[Tensor, Tensor]]


class Kind(NamedTuple):
    """The kind of tensors that are rotated here.

    Args:
        name: the name of our function in a model's module; no name in its source can be the same.
        computes: whether queries, keys, cosines and sines are rotated here, given the model's own function.
    """

    name: str
    computes: Callable[..., bool]


def fuse_rotations(model: Any) -> Any:
    """The model, whose attention layers rotate queries and keys by `fused_rotation`, if a trial agrees."""
    return rotate_by(model, SINGLE) if ROTATIONS.active(model) else model


def rotate_by(model: Any, kind: Kind) -> Any:
    """The model, whose attention layers rotate as its function does, those of a kind by `fused_rotation`."""
    for module in model.modules():
        forward = type(module).forward
        own = getattr(forward, "__globals__", {}).get(NAME)
        if own is not None and _calls(forward) and agrees(own):
            module.__class__ = _subclass(cast(Any, type(module)), kind)
    return model


def _calls(forward: Any) -> bool:
    """Whether a forward pass uses the global function, and no attribute of the same name."""
    uses = {step.opname for step in dis.get_instructions(forward) if step.argval == NAME}
    return uses == {"LOAD_GLOBAL"}


@cache
def _subclass(own: Any, kind: Kind) -> Any:
    """The class with its own `forward`, which calls our function; if its `forward` is replaced later, with that one."""
    original = own.forward
    code = original.__code__
    code = code.replace(co_names=tuple(kind.name if name == NAME else name for name in code.co_names))
    original.__globals__[kind.name] = fused_rotation(original.__globals__, kind)
    fused: Any = FunctionType(
        code, original.__globals__, original.__name__, original.__defaults__, original.__closure__
    )
    fused.__kwdefaults__ = original.__kwdefaults__

    @wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (fused if own.forward is original else own.forward)(self, *args, **kwargs)

    body = {"forward": forward, "__module__": own.__module__, "__qualname__": own.__qualname__}
    return type(own.__name__, (own,), body)


def fused_rotation(names: dict[str, Any], kind: Kind) -> Rotate:
    """The rotation of a model's module, given its globals; heads that are rotated whole are rotated here."""

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        own: Rotate = names[NAME]
        whole = q.shape[-1] == k.shape[-1] == cos.shape[-1] == sin.shape[-1]
        if not whole or not kind.computes(own, q, k, cos, sin):
            return own(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
        angles = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return rotated(q, *angles), rotated(k, *angles)

    return rotate


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads that are rotated whole; all tensors can be broadcast to the shape of x."""
    rotation = _Rotation.apply if torch.is_grad_enabled() else _rotated
    result: Tensor = rotation(x, cos, sin)
    return result


@cache
def agrees(own: Rotate) -> bool:
    """Whether a model's function has the parameters of ours, and rotates the first half of a head by the second."""
    if {p.name: p.default is Parameter.empty for p in signature(own).parameters.values()} != PARAMETERS:
        return False
    q, k = torch.linspace(-1, 1, 48).view(1, 2, 3, 8), torch.linspace(1, 2, 24).view(1, 1, 3, 8)
    cos, sin = torch.linspace(0, 3, 48).view(2, 1, 3, 8)
    try:
        expected = own(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError, IndexError):  # it takes other shapes
        return False
    found = (_rotated(x, cos.unsqueeze(1), sin.unsqueeze(1)) for x in (q, k))
    return all(
        one.shape == other.shape and torch.allclose(one, other) for one, other in zip(found, expected, strict=True)
    )


SINGLE = Kind(f"{NAME} of rlhf_plugins", lambda own, *given: ROTATIONS.active(*given) and agrees(own))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(x1 cos1 - x2 sin1, x2 cos2 + x1 sin2) of halves 1 and 2 of the last dimension (Su et al. 2021, equation 34)."""
    (x1, x2), (sin1, sin2) = x.chunk(2, -1), sin.chunk(2, -1)
    rotated = x * cos
    low, high = rotated.chunk(2, -1)
    low.addcmul_(x2, sin1, value=-1)
    high.addcmul_(x1, sin2)
    return rotated


class _Rotation(Function):
    """`_rotated`, and its gradient, which rotates back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        (grad1, grad2), (sin1, sin2) = grad.chunk(2, -1), sin.chunk(2, -1)
        x_grad = grad * cos
        low, high = x_grad.chunk(2, -1)
        low.addcmul_(grad2, sin2)
        high.addcmul_(grad1, sin1, value=-1)
        return x_grad, None, None
