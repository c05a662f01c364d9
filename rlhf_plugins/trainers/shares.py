"""The weights of micro-batches in a minibatch's means, so that they sum to these. It knows masks, no models.

In a mean over tokens a micro-batch counts by its number of tokens. In a reduction that is a weighted sum of the tokens'
losses it counts by the weights, which are the reduction's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_plugins.arithmetic import masked
from rlhf_plugins.contract.guards import named
from rlhf_plugins.contract.interfaces import Reduction
from rlhf_plugins.errors import PluginError

FAR = 100.0  # larger than losses of tokens usually are


@dataclass(frozen=True)
class Share:
    """The part of one micro-batch in its minibatch."""

    tokens: float  # its share of the response tokens
    reduced: Callable[[Tensor, Tensor], Tensor]  # losses and mask, both (b, t) -> their part of the reduction, a scalar

    def mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """The part of values (b, t) in the mean over the minibatch's tokens, a scalar."""
        return self.tokens * masked.mean(values, mask)


def shares(masks: Sequence[Tensor], reduction: Reduction) -> list[Share]:
    """The shares of a minibatch's micro-batches, from their masks of response tokens, each (b, t).

    Raises:
        PluginError: there are several, and the reduction is no weighted sum of the losses.
        ComponentError: the reduction fails.
    """
    if len(masks) == 1:
        return [Share(1.0, reduction)]
    width = max(mask.shape[1] for mask in masks)
    weights = _weights(reduction, torch.cat([pad(mask, (0, width - mask.shape[1])) for mask in masks]))
    if weights is None:
        what = f"{named(reduction)} is no weighted sum of the tokens' losses, so that no minibatch of it can be cut"
        raise PluginError(f"{what}: give its class `uses_batch_mates=True`, or write `tokens_per_batch: null`")
    parts = weights.split([len(mask) for mask in masks])
    counts = [int(mask.sum()) for mask in masks]
    return [Share(count / sum(counts), partial(_weighed, own)) for count, own in zip(counts, parts, strict=True)]


def adds_up(reduction: Reduction) -> bool:
    """Whether a reduction is a weighted sum of the losses, by one trial. Raises ComponentError if it fails."""
    return _weights(reduction, torch.arange(5) < torch.tensor([[2], [5], [1], [4], [5], [3], [1], [2]])) is not None


@torch.enable_grad()
def _weights(reduction: Reduction, mask: Tensor) -> Tensor | None:
    """The weight of each token's loss, (B, T): the gradient at 0. None where losses far from 0 have other weights."""
    losses = torch.zeros(mask.shape, device=mask.device, requires_grad=True)
    weights = torch.autograd.grad(reduction(losses, mask), losses)[0]
    far = FAR * torch.arange(mask.numel(), device=mask.device).sin().view(mask.shape)
    tried = [(_weighed(weights, each, mask), reduction(each, mask)) for each in (far, -far)]
    return weights if all(torch.isclose(*both, rtol=1e-3, atol=1e-4 * FAR) for both in tried) else None


def _weighed(weights: Tensor, losses: Tensor, mask: Tensor) -> Tensor:
    return (losses.masked_fill(~mask, 0.0) * weights[:, : mask.shape[1]]).sum()
