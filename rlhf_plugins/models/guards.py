"""What a component may answer: a tensor of the right shape that learns. It knows what to say, not what is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.errors import PluginError, RlhfError


def asked(component: Any, *inputs: Any, shape: tuple[int, ...]) -> Tensor:
    """What a component answers: a tensor of `shape`, with a gradient if its inputs have one.

    Args:
        component: a loss, a pooling, a head: anything that is called.
        inputs: tensors, or records of tensors.

    Raises:
        PluginError: it fails or answers anything else; the message names its class.
    """
    answer = answered(component, called(component, *inputs), shape)
    if any(tensor.requires_grad for tensor in tensors(inputs).values()):
        learns(component, answer)
    return answer


def learns(component: Any, answer: Tensor) -> None:
    """Raises PluginError naming the component when its answer has no gradient where gradients are taken."""
    if torch.is_grad_enabled() and not answer.requires_grad:
        raise PluginError(f"{named(component)} gave numbers without a gradient, from which nothing is learned")


def answered(component: Any, answer: Any, shape: tuple[int, ...]) -> Tensor:
    """The answer itself. Raises PluginError naming the component when it is not a tensor of `shape`."""
    if not isinstance(answer, Tensor):
        raise PluginError(f"{named(component)} gave a {type(answer).__name__}, not a tensor")
    if answer.shape != shape:
        raise PluginError(f"{named(component)} gave shape {tuple(answer.shape)}, not {shape}")
    return answer


def called(component: Any, *inputs: Any) -> Any:
    """component(*inputs). Raises PluginError naming its class when it raises anything that is not ours."""
    try:
        return component(*inputs)
    except (RlhfError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise PluginError(f"{named(component)} failed: {type(error).__name__}: {error}") from error


def named(component: Any) -> str:
    """What messages call a component: its class, and the module where to look for it."""
    cls = component if isinstance(component, type) else type(component)
    return f"{cls.__qualname__} of {cls.__module__}"


def tensors(inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """The tensors among the inputs and the fields of those that are records, by name."""
    alone = {f"input {i}": value for i, value in enumerate(inputs)}
    fields = {f"{type(value).__name__}.{k}": v for value in inputs for k, v in getattr(value, "__dict__", {}).items()}
    return {k: v for k, v in (alone | fields).items() if isinstance(v, Tensor)}
