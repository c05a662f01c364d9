"""Decoder layers compiled by `torch.compile`, for passes that are trained.

With `engine: compiled` each layer is tried at its first training pass, against its own computation of the same inputs,
outputs and gradients. It computes plainly for ever if they differ, or if it does not compile. Passes without gradients,
as generation's, whose shapes change at every token, are never compiled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from rlhf_plugins.engine import COMPILED, unseen
from rlhf_plugins.engine.cpu.swapping import subclass
from rlhf_plugins.engine.layers import decoder_layers
from rlhf_plugins.engine.out_of_memory import inconclusive

logger = logging.getLogger(__name__)
BACKEND = "inductor"  # of torch.compile


def compile_layers(trunk: Any) -> None:
    """Has all layers of a decoder or encoder but its last compiled where `COMPILED` is active.

    The last one is left out, since hooks restrict its feed-forward block to scored tokens.
    """
    layers = decoder_layers(trunk) or ()
    for layer in list(layers)[:-1]:
        if not isinstance(layer, CompiledLayer) and all(map(COMPILED.active, layer.parameters())):
            own: Any = type(layer)
            layer.__class__ = subclass(CompiledLayer, own)


class CompiledLayer(nn.Module):
    """A decoder layer whose training passes are compiled, if its trial agreed."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own forward pass, or the compiled one."""
        own = super().forward
        weights = next(self.parameters())
        asked = torch.is_grad_enabled() and COMPILED.active(weights) and not _has_hooks(self)
        if asked and _tried(self, own, args, kwargs):
            return _compiled(_own(self))(self, *args, **kwargs)
        return own(*args, **kwargs)


def _own(layer: Any) -> Any:
    """The layer's class below `CompiledLayer`."""
    classes = type(layer).__mro__
    return classes[classes.index(CompiledLayer) + 1]


def _has_hooks(layer: nn.Module) -> bool:
    """Whether hooks are on its modules, which what is compiled already would leave out."""
    inner = (module for module in layer.modules() if module is not layer)
    return any(module._forward_hooks or module._forward_pre_hooks for module in inner)


@cache
def _compiled(own: Any) -> Callable[..., Any]:
    """The forward pass of a class of layers, compiled for any number of rows and tokens."""
    return torch.compile(own.forward, dynamic=True, backend=BACKEND)


# ---- trials ------------------------------------------------------------------------------------------------
def _tried(layer: Any, own: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the compiled layer agrees with its own computation, as tried on its first inputs of this precision."""
    states = next(each for each in (*args, *kwargs.values()) if isinstance(each, Tensor))
    device = states.device.type
    computes = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    results: dict[Any, bool] = vars(layer).setdefault("_rlhf_compiled", {})
    key = device, states.dtype, computes, layer.training
    if key not in results:
        reason = _disagreement(layer, own, (args, kwargs), torch.finfo(computes).eps ** 0.5)
        results[key] = reason is None
        if reason is not None:
            _say(type(layer).__name__, reason)
    return results[key]


@cache
def _say(name: str, reason: str) -> None:
    logger.warning("%s: is not compiled, because %s", name, reason)


def _disagreement(layer: Any, own: Callable[..., Any], given: Any, rounding: float) -> str | None:
    """Why the compiled layer is not used; None if its outputs and gradients are those of its own computation."""
    compiled = _compiled(_own(layer))
    weights = [each for each in layer.parameters() if each.requires_grad]
    with unseen(), torch.random.fork_rng():
        try:
            expected = _outcome(own, given, weights)
            found = _outcome(lambda *args, **kwargs: compiled(layer, *args, **kwargs), given, weights)
        except Exception as failure:  # torch's compilers fail in many ways, for want of a compiler of C++ among them
            if inconclusive(failure):
                raise
            return f"it failed ({type(failure).__name__}: {str(failure).strip().splitlines()[0]})"
    errors = [_error(*both) for both in zip(found, expected, strict=True)]
    return None if max(errors) < rounding else f"its outputs or gradients differ by {max(errors):.2%}"


def _outcome(compute: Callable[..., Any], given: Any, weights: Sequence[Tensor]) -> list[Tensor | None]:
    """The states that a layer returns, and gradients of its inputs and weights, for one direction of its output."""
    inputs: list[Tensor] = []

    def own(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or not tensor.requires_grad:
            return tensor
        inputs.append(tensor.detach().requires_grad_())
        return inputs[-1]

    args, kwargs = tree_map_only(Tensor, own, given)
    output = compute(*args, **kwargs)
    states: Tensor = output[0] if isinstance(output, tuple) else output
    direction = torch.linspace(-1, 1, states.numel(), device=states.device).sin().view_as(states).to(states.dtype)
    grads = torch.autograd.grad(states, [*inputs, *weights], direction, allow_unused=True)
    return [states.detach(), *grads]


def _error(found: Tensor | None, expected: Tensor | None) -> float:
    """The norm of the difference, relative to what was expected; infinite where one is missing or not finite."""
    if found is None or expected is None:
        return 0.0 if found is expected else float("inf")
    error = (found.float() - expected.float()).norm() / expected.float().norm().clamp(min=torch.finfo().tiny)
    return float(error.nan_to_num(nan=float("inf")))
