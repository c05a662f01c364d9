"""A sampler: what is known of the examples in, which come next out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from rlhf_plugins import Draw, hookimpl


@dataclass(frozen=True)
class Sampler:
    """Short examples first, by their length with noise (say here where yours comes from)."""

    noise: Annotated[float, Field(ge=0, description="standard deviation of the noise, in tokens")] = 10.0

    def __call__(self, draw: Draw) -> np.ndarray:  # (draw.size,) places of examples
        remaining = np.flatnonzero(draw.remaining)
        key = draw.length[remaining] + self.noise * draw.rng.standard_normal(len(remaining))
        return remaining[np.argsort(key)[: draw.size]]


@hookimpl
def register_sampler() -> dict[str, type]:
    return {"sampler": Sampler}
