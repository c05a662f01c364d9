"""A kernel for sequences of several lengths in plain torch, a sequence after the other, in float32 or better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf_plugins.engine.attention import Parts
from rlhf_plugins.engine.varlen import Block, Sequences

FORWARD = torch.ops.aten._flash_attention_forward.default
BACKWARD = torch.ops.aten._flash_attention_backward.default


class Reference:
    """As `varlen.Kernel`; its backward pass is that of FlashAttention (Dao et al. 2022, algorithm 4), unblocked."""

    def forward(self, inputs: Parts, block: Block, scale: float) -> Parts:
        query = inputs[0]
        output, lse = torch.empty_like(query), precise(query.new_empty(query.shape[1], len(query)))
        for queries, keys in spans(block):
            q, k, v = shared(query[queries], inputs[1][keys], inputs[2][keys])
            logits = masked(scale * q @ k.mT, block)
            lse[:, queries] = logits.logsumexp(-1)
            output[queries] = (logits.softmax(-1) @ v).transpose(0, 1).to(output.dtype)
        return output, lse

    def backward(self, grad: Tensor, inputs: Parts, results: Parts, block: Block, scale: float) -> Parts:
        query, key, value = inputs
        found = tuple(torch.zeros_like(each) for each in inputs)
        for queries, keys in spans(block):
            q, k, v = shared(query[queries], key[keys], value[keys])
            g, out = (precise(each[queries]).transpose(0, 1) for each in (grad, results[0]))
            weights = (masked(scale * q @ k.mT, block) - results[1][:, queries].unsqueeze(-1)).exp()
            slopes = scale * weights * (g @ v.mT - (g * out).sum(-1, keepdim=True))
            parts = slopes @ k, slopes.mT @ q, weights.mT @ g
            for total, at, part in zip(found, (queries, keys, keys), parts, strict=True):
                total[at] = part.unflatten(0, (total.shape[1], -1)).sum(1).transpose(0, 1).to(total.dtype)
        return found


def spans(block: Block) -> Iterator[tuple[slice, slice]]:
    """The queries and the keys of each sequence."""
    both = [[slice(*ends) for ends in pairwise(each.bounds.tolist())] for each in (block.queries, block.keys)]
    for each, longest in zip(both, (block.queries.longest, block.keys.longest), strict=True):
        most = max(own.stop - own.start for own in each)
        assert longest in (most, max(2, most))
    return zip(*both, strict=True)


def shared(query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """(tokens, heads, width) as (heads, tokens, width), keys and values repeated for the heads that share them."""
    repeats = query.shape[1] // key.shape[1]
    return [precise(query).transpose(0, 1)] + [
        precise(each).transpose(0, 1).repeat_interleave(repeats, 0) for each in (key, value)
    ]


def masked(logits: Tensor, block: Block) -> Tensor:
    """Logits (heads, queries, keys), of which the last query is at the place of the last key."""
    queries, keys = logits.shape[1:]
    behind = torch.arange(queries).unsqueeze(1) + (keys - queries) - torch.arange(keys)
    seen = behind >= 0 if block.window is None else (behind >= 0) & (behind < block.window)
    return logits.masked_fill(~seen, -torch.inf) if block.causal else logits


def precise(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class FlashOnCpu(TorchDispatchMode):
    """For the block, torch's kernel for GPUs is computed by the reference, from its arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.padded = False  # as FlashAttention had log-sum-exps before its version 2.6

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (FORWARD, BACKWARD):
            return func(*args, **kwargs)
        self.calls.append(func.name())
        given = {**dict(zip((each.name for each in func._schema.arguments), args, strict=False)), **kwargs}
        inputs = given["query"], given["key"], given["value"]
        check(given)
        sequences = (Sequences(given[f"cum_seq_{side}"], given[f"max_{side}"]) for side in "qk")
        left, right = (given.get(f"window_size_{side}") for side in ("left", "right"))
        assert (left is None, right) in ((True, None), (False, 0))
        block = Block(*sequences, given["is_causal"], None if left is None else left + 1)
        if func is FORWARD:
            none, (output, lse) = torch.empty(0), Reference().forward(inputs, block, given["scale"])
            lse = lse.new_empty(len(block.queries.bounds) - 1, len(lse), block.queries.longest) if self.padded else lse
            return output, lse, none, none, none
        results = given["out"], given["logsumexp"]
        return Reference().backward(given["grad_out"], inputs, results, block, given["scale"])


def check(given: Mapping[str, Any]) -> None:
    """What torch's source asks of the arguments (`mha_varlen_fwd` and `mha_varlen_bwd` of its flash_api.cpp)."""
    query, key, value = given["query"], given["key"], given["value"]
    assert query.dtype == key.dtype == value.dtype
    assert [each.dim() for each in (query, key, value)] == [3, 3, 3]
    assert [each.stride(-1) for each in (query, key, value)] == [1, 1, 1]
    assert key.shape == value.shape
    assert query.shape[1] % key.shape[1] == 0
    for bounds, tokens in ((given["cum_seq_q"], query), (given["cum_seq_k"], key)):
        assert (bounds.dtype, bounds.is_contiguous(), int(bounds[-1])) == (torch.int32, True, len(tokens))
    assert (given["dropout_p"], given.get("return_debug_mask", False)) == (0.0, False)
    if "logsumexp" in given:
        assert given["logsumexp"].shape == (query.shape[1], len(query))
        assert given["logsumexp"].is_contiguous()
        assert given["grad_out"].shape == given["out"].shape == query.shape
