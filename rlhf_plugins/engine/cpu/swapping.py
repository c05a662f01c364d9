"""Gives a module another way to compute what it computes, if a trial agrees. It knows modules, not what they are."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn


def swapped(module: nn.Module, other: type[nn.Module], *examples: Tensor) -> None:
    """Makes the module one of its own class that computes as `other` does, unless an example tells them apart.

    Args:
        module: of any class.
        other: a class whose `forward` leaves to `super()` what it does not know.
        examples: float32 inputs to try both on.
    """
    own: Any = type(module)
    if issubclass(own, other) or module.training or not _can_try(module):
        return
    expected = [_tried(module, example) for example in examples]
    module.__class__ = _both(cast(Any, other), own)
    found = [_tried(module, example) for example in examples]
    if not all(map(_equal, found, expected)):
        module.__class__ = own


def _tried(module: nn.Module, example: Tensor) -> Tensor | None:
    """What the module makes of the example; None where it takes no such thing."""
    try:
        with torch.enable_grad():  # some compute as before where nothing is trained
            made = module(example)
    except (TypeError, ValueError, RuntimeError):
        return None
    return made.detach() if isinstance(made, Tensor) else None


def _equal(found: Tensor | None, expected: Tensor | None) -> bool:
    if found is None or expected is None:
        return False
    within = 1e-5 * float(expected.abs().max())
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=within)


def _can_try(module: nn.Module) -> bool:
    return all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in module.parameters())


@cache
def _both(other: Any, own: Any) -> Any:
    """A class of the module's own name and place, which saves, copies and prints as before."""
    return type(own.__name__, (other, own), {"__module__": own.__module__, "__qualname__": own.__qualname__})
