"""The diagonal of the Fisher information, and the penalty that it weighs: arithmetic on tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def diagonal(log_likelihoods: Iterable[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """The mean over examples of (d log p(y|x) / d theta_i)^2, y drawn from the model; float32, shaped as the weights.

    The square is taken of each example's own gradient: that of a batch's mean gradient is no Fisher information.

    Args:
        log_likelihoods: a scalar with a graph for each example, freed as the next is made.
        weights: theta.

    Raises:
        ValueError: there is no example.
    """
    sums, count = [torch.zeros_like(each, dtype=torch.float32) for each in weights], 0
    for one in log_likelihoods:
        grads = torch.autograd.grad(one, list(weights), allow_unused=True)
        for total, grad in zip(sums, grads, strict=True):
            if grad is not None:
                total += grad.float().square()
        count += 1
    if not count:
        raise ValueError("no example to take the Fisher information of")
    return [total / count for total in sums]


def penalty(weights: Sequence[Tensor], start: Sequence[Tensor], fisher: Sequence[Tensor], strength: float) -> Tensor:
    """strength / 2 sum_i F_i (theta_i - theta*_i)^2, a scalar (Kirkpatrick et al. 2017, equation 3)."""
    parts = [
        (each * (now.to(each.dtype) - then.to(each.dtype)).square()).sum()
        for now, then, each in zip(weights, start, fisher, strict=True)
    ]
    return strength / 2 * torch.stack([part.to(parts[0].device) for part in parts]).sum()
