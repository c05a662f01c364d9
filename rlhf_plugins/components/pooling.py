"""Poolings: how hidden states become one feature vector. They know a mask, not what it marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rlhf_plugins import masked
from rlhf_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LastToken:
    """The hidden state at the last True position, whatever the padding side and whatever token stands there."""

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:  # (batch, length, width) -> (batch, width)
        """h_T with T the last position of the mask."""
        places = torch.arange(mask.shape[1], device=mask.device)
        last = (places * mask).argmax(1)  # (batch,)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]


@dataclass(frozen=True)
class Mean:
    """The mean hidden state over the True positions."""

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:  # (batch, length, width) -> (batch, width)
        """1/T sum_t h_t."""
        return masked.mean(hidden, mask.unsqueeze(-1), dim=1)


@hookimpl
def register_pooling() -> dict[str, type]:
    """The bundled poolings."""
    return {"last_token": LastToken, "mean": Mean}
