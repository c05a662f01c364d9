"""Features of a response as it grows, of one forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.data.batches.branches import BranchBatch

AT_ONCE = 16  # prefixes that are pooled together, each over a copy of the sequence's states


def prefix_features(states: Tensor, batch: BranchBatch, pooling: Any, numbers: Tensor | None) -> Tensor:
    """Pooled features of every response up to each of its tokens, (tokens, width), branch by branch.

    Hidden states of a causal decoder are those of the prefix, whatever follows.

    Args:
        states: (B, L, width).
        batch: the branches.
        pooling: the pooling as the model acts with it.
        numbers: (B, L) of sentences, where the pooling reads them.
    """
    if pooling.reads_last:
        return states[batch.response]
    mask = batch.response if pooling.over == "response" else batch.mask
    places = torch.arange(mask.shape[1], device=mask.device)
    found = []
    for row, own in enumerate(states):
        for ends in places[batch.response[row]].split(AT_ONCE):
            seen = mask[row] & (places <= ends.unsqueeze(1))  # (prefixes, L)
            more = () if numbers is None else (numbers[row].expand_as(seen),)
            found.append(pooling(own.expand(len(ends), *own.shape), seen, *more))
    return torch.cat(found)
