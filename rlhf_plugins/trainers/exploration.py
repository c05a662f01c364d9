"""Sampling from a mixture of the policy and of the policy at another temperature. It knows logits only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.trainers.settings import Exploration


def mixed(log_probs: Tensor, other: Tensor, epsilon: float) -> Tensor:
    """log((1 - epsilon) exp(log_probs) + epsilon exp(other)), elementwise."""
    weights = log_probs.new_tensor([1 - epsilon, epsilon]).log()
    return torch.logaddexp(log_probs + weights[0], other + weights[1])


@contextmanager
def exploring(model: Any, exploration: Exploration | None, temperature: float) -> Iterator[None]:
    """While the model generates: its logits, divided by `temperature`, are the mixture's. None changes nothing.

    It is exact for plain sampling only: top-p, top-k and the like sample from another distribution.
    """
    if exploration is None:
        yield
        return

    def mix(_: Any, __: Any, output: Any) -> Any:
        logits = output.logits.float()
        own, hot = ((logits / t).log_softmax(-1) for t in (temperature, exploration.temperature))
        output.logits = temperature * mixed(own, hot, exploration.epsilon)
        return output

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hook = inner.register_forward_hook(mix)
    try:
        yield
    finally:
        hook.remove()
