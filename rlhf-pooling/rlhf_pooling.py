"""A pooling: the hidden states of a sequence in, one feature vector out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from rlhf_plugins import hookimpl


@dataclass(frozen=True)
class Pooling:
    """sum_t h_t / T^power over the T tokens of the mask; power = 1 is the mean (say here where yours comes from)."""

    power: Annotated[float, Field(ge=0, le=1, description="how much of the length is divided out")] = 0.75

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:  # (batch, length, width) -> (batch, width)
        kept = hidden.float().masked_fill(~mask.unsqueeze(-1), 0.0)  # what is padding counts for nothing
        return (kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1) ** self.power).to(hidden.dtype)


@hookimpl
def register_pooling() -> dict[str, type]:
    return {"pooling": Pooling}
