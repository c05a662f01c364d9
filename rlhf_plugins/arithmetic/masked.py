"""Mean, variance and whitening over the True positions of a mask: the only copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-10


def mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of `values` where `mask` is True; 0 where nothing is True.

    Shapes: both (..., n); the result is a scalar, or lacks dimension `dim`.
    """
    kept = values.masked_fill(~mask, 0.0)
    if dim is None:
        return kept.sum() / mask.sum().clamp(min=1)
    return kept.sum(dim) / mask.sum(dim).clamp(min=1)


def variance(values: Tensor, mask: Tensor) -> Tensor:
    """Population variance of `values` where `mask` is True, a scalar."""
    return mean((values - mean(values, mask)) ** 2, mask)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shifts and scales to mean 0 and variance 1 over the mask; 0 outside it. Same shape as `values`.

    A share of the mean square, `EPSILON`, keeps rounding errors of equal values small.
    """
    spread = variance(values, mask) + EPSILON * mean(values**2, mask)
    white = (values - mean(values, mask)) * spread.clamp(min=torch.finfo(values.dtype).tiny).rsqrt()
    return white.masked_fill(~mask, 0.0)
