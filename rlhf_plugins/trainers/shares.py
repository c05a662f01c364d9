"""What a piece counts for in a minibatch's means, so that the pieces add up to it. It knows masks, no models.

A mean over tokens is shared out by tokens. A reduction that is a weighted sum of the tokens' losses is shared out by
its weights, which are its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_plugins import masked
from rlhf_plugins.models.guards import asked
from rlhf_plugins.rollout import Reduction


@dataclass(frozen=True)
class Share:
    """One piece's part in its minibatch."""

    tokens: float  # its share of the response tokens
    reduced: Callable[[Tensor, Tensor], Tensor]  # losses and mask, both (b, t) -> their part of the reduction, a scalar

    def mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """The part of values (b, t) in the mean over the minibatch's tokens, a scalar."""
        return self.tokens * masked.mean(values, mask)


def shares(masks: Sequence[Tensor], reduction: Reduction) -> list[Share]:
    """The shares of a minibatch's pieces, of their masks of response tokens, each (b, t).

    Raises:
        ComponentError: the reduction fails.
    """
    if len(masks) == 1:
        return [Share(1.0, partial(_reduced, reduction))]
    width = max(mask.shape[1] for mask in masks)
    whole = torch.cat([pad(mask, (0, width - mask.shape[1])) for mask in masks])  # (B, T)
    weights = _weights(reduction, whole).split([len(mask) for mask in masks])
    counts = [int(mask.sum()) for mask in masks]
    return [Share(count / sum(counts), partial(_weighed, own)) for count, own in zip(counts, weights, strict=True)]


def adds_up(reduction: Reduction) -> bool:
    """Whether a reduction is a weighted sum of the losses, as one trial has it. Raises ComponentError if it fails."""
    mask = torch.tensor([[True, True, False], [True, True, True]])
    one, other = torch.tensor([[1.0, -2.0, 0.0], [0.5, 3.0, -1.0]]), torch.tensor([[-3.0, 0.25, 0.0], [2.0, 1.0, 1.5]])
    found = [_reduced(reduction, losses, mask) for losses in (one, other, one + other)]
    return torch.allclose(found[0] + found[1], found[2], atol=1e-6)


def _reduced(reduction: Reduction, losses: Tensor, mask: Tensor) -> Tensor:
    return asked(reduction, losses, mask, shape=())


@torch.enable_grad()
def _weights(reduction: Reduction, mask: Tensor) -> Tensor:
    """What each token's loss counts for, (B, T)."""
    losses = torch.zeros(mask.shape, device=mask.device, requires_grad=True)
    return torch.autograd.grad(_reduced(reduction, losses, mask), losses)[0]


def _weighed(weights: Tensor, losses: Tensor, mask: Tensor) -> Tensor:
    return (losses.masked_fill(~mask, 0.0) * weights[:, : mask.shape[1]]).sum()
