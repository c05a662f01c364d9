"""Attention over a packed row by a kernel that takes sequences of any lengths, in two calls or one.

The first call is causal, over sequences that follow one another in the row: the prompt and the first branch of a group,
and each other branch alone. The second is over all other branches of a group and their prompt. The results are merged
by their log-sum-exps, as FlashAttention merges blocks (Dao et al. 2022, section 3.1): the backward pass of each call
gets the merged output and log-sum-exps, and the gradients of both add up.

Under a sliding window there is one call: each other branch is queries alone, and its keys are gathered, those of the
end of its prompt and its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rlhf_plugins.engine.attention import Parts, merge


class Sequences(NamedTuple):
    """Sequences that follow one another."""

    bounds: Tensor  # (sequences + 1,) int32: where each begins, and where the last ends
    longest: int  # tokens


class Block(NamedTuple):
    """What a kernel computes in one call: each sequence of queries attends to the sequence of keys of its number.

    Causally, a sequence's last query is at the place of its last key.
    """

    queries: Sequences
    keys: Sequences
    causal: bool
    window: int | None = None  # keys that a query of a causal block sees at most, its own among them


class Across(NamedTuple):
    """All branches but the first of each group, and their prompts; groups of a single branch are left out."""

    branches: Tensor  # (M,) int64, places in the row
    prompts: Tensor  # (P,) int64, places in the row
    block: Block


class RowSequences(NamedTuple):
    """The sequences of a packed row."""

    own: Block  # all tokens of the row
    across: Across | None  # None where each group has a single branch, and under a sliding window
    keys: Tensor | None = None  # (K,) int64, places in the row of the keys of `own`; None where they are the row's


class Heads(NamedTuple):
    """The attention heads of a layer."""

    queries: int
    keys: int
    width: int
    dtype: torch.dtype
    windowed: bool = False  # whether a sliding window hides any token of the row


class Kernel(Protocol):
    """Attention of sequences of any lengths, with the log-sum-exps of its queries.

    Queries, keys and values are (tokens, heads, width); heads of keys divide those of queries. Log-sum-exps are
    (heads, tokens), in float32 or better.
    """

    def forward(self, inputs: Parts, block: Block, scale: float) -> Parts:
        """The output (tokens, heads, width) and log-sum-exps, given queries, keys and values."""

    def backward(self, grad: Tensor, inputs: Parts, results: Parts, block: Block, scale: float) -> Parts:
        """The gradients of queries, keys and values, given that of the output, and the results of all blocks."""


def row_sequences(groups: Sequence[Sequence[int]], device: torch.device, window: int | None = None) -> RowSequences:
    """The sequences of a packed row; the host does not wait for the device.

    Args:
        groups: the tokens of each group's prompt and of its branches, in order.
        device: where the row is.
        window: the tokens that one sees at most, itself among them; None is all before it.
    """
    starts = list(accumulate((sum(group) for group in groups), initial=0))
    lengths = [length for prompt, first, *others in groups for length in (prompt + first, *others)]
    own = _sequences(lengths, device)
    if window is not None:
        return _windowed(groups, starts, own, window)
    several = [(start, *group) for start, group in zip(starts, groups, strict=False) if len(group) > 2]
    if not several:
        return RowSequences(Block(own, own, True), None)
    prompts = [(start, prompt) for start, prompt, *_ in several]
    branches = [(start + prompt + first, sum(others)) for start, prompt, first, *others in several]
    queries, keys = (_sequences([length for _, length in spans], device) for spans in (branches, prompts))
    across = Across(_places(branches, device), _places(prompts, device), Block(queries, keys, False))
    return RowSequences(Block(own, own, True), across)


def _windowed(groups: Sequence[Sequence[int]], starts: Sequence[int], own: Sequences, window: int) -> RowSequences:
    """Sequences whose branches but the first have keys of the prompt before their own, as many as the window shows."""
    device, spans, lengths = own.bounds.device, list[tuple[int, int]](), list[int]()
    for start, (prompt, first, *others) in zip(starts, groups, strict=False):
        seen, end = min(prompt, window - 1), start + prompt
        branches = zip(accumulate(others, initial=end + first), others, strict=False)
        spans += (start, prompt + first), *(span for branch in branches for span in ((end - seen, seen), branch))
        lengths += prompt + first, *(seen + branch for branch in others)
    if len(lengths) == len(groups):
        return RowSequences(Block(own, own, True, window), None)
    return RowSequences(Block(own, _sequences(lengths, device), True, window), None, _places(spans, device))


def _sequences(lengths: Sequence[int], device: torch.device) -> Sequences:
    bounds = np.array([0, *accumulate(lengths)], dtype=np.int32)
    return Sequences(torch.from_numpy(bounds).to(device, non_blocking=True), max(lengths))


def _places(spans: Iterable[tuple[int, int]], device: torch.device) -> Tensor:
    """All places of spans, each a start and a length."""
    places = np.concatenate([np.arange(start, start + length) for start, length in spans])
    return torch.from_numpy(places).to(device, non_blocking=True)


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float, how: tuple[RowSequences, Kernel]) -> Tensor:
    """Attention in which each token sees its prompt and, causally, its own sequence, of both what its window shows.

    Args:
        query: (1, heads, N, width).
        key: (1, key heads, N, width).
        value: (1, key heads, N, width).
        scale: the scale of the logits.
        how: the sequences of the row, and what computes them.

    Returns:
        (1, heads, N, width).
    """
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    if (places := how[0].keys) is not None:
        key, value = key.index_select(0, places), value.index_select(0, places)
    output: Tensor = _Attention.apply(query, key, value, scale, *how)
    return output.transpose(0, 1).unsqueeze(0)


class _Attention(torch.autograd.Function):
    """Saves queries, keys, values, the output and the log-sum-exps; all are (tokens, heads, width)."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *inputs, scale, sequences, kernel = given
        output, lse = kernel.forward(tuple(inputs), sequences.own, scale)
        if sequences.across is not None:
            _add_prompts(tuple(inputs), (output, lse), sequences.across, scale, kernel)
        ctx.save_for_backward(*inputs, output, lse)
        ctx.scale, ctx.sequences, ctx.kernel = scale, sequences, kernel
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, output, lse = ctx.saved_tensors
        found = ctx.kernel.backward(grads[0], tuple(inputs), (output, lse), ctx.sequences.own, ctx.scale)
        across: Across | None = ctx.sequences.across
        if across is not None:
            grad, query, out = (tensor.index_select(0, across.branches) for tensor in (grads[0], inputs[0], output))
            key, value = (tensor.index_select(0, across.prompts) for tensor in inputs[1:])
            results = out, lse.index_select(1, across.branches)
            more = ctx.kernel.backward(grad, (query, key, value), results, across.block, ctx.scale)
            places = (across.branches, across.prompts, across.prompts)
            for total, at, part in zip(found, places, more, strict=True):
                total.index_add_(0, at, part)
        return *found, None, None, None


def _add_prompts(inputs: Parts, results: Parts, across: Across, scale: float, kernel: Kernel) -> None:
    """Merges, in place, what all branches but the first of a group see of their prompt into their results."""
    query, key, value = inputs
    prompts = (tensor.index_select(0, across.prompts) for tensor in (key, value))
    seen, seen_lse = kernel.forward((query.index_select(0, across.branches), *prompts), across.block, scale)
    output, lse = results
    own, own_lse = output.index_select(0, across.branches), lse.index_select(1, across.branches)
    merged, merged_lse = merge((seen.transpose(0, 1), seen_lse), (own.transpose(0, 1), own_lse))
    output.index_copy_(0, across.branches, merged.transpose(0, 1))
    lse.index_copy_(1, across.branches, merged_lse)


class Flash:
    """FlashAttention 2 as torch has it for GPUs: half precision, widths of a multiple of 8 up to 256, no dropout."""

    @staticmethod
    def forward(inputs: Parts, block: Block, scale: float) -> Parts:
        """See `Kernel`. Raises RuntimeError where log-sum-exps are padded, as versions of torch have them."""
        output, lse, *_ = torch.ops.aten._flash_attention_forward(
            *inputs, *_bounds(block), 0.0, block.causal, False, scale=scale, **_window(block)
        )
        if lse.shape != inputs[0].shape[1::-1]:  # before an index beyond them ends the process
            raise RuntimeError(f"torch {torch.__version__} returns log-sum-exps of shape {tuple(lse.shape)}")
        return output, lse

    @staticmethod
    def backward(grad: Tensor, inputs: Parts, results: Parts, block: Block, scale: float) -> Parts:
        """See `Kernel`."""
        undrawn = grad.new_empty(2, dtype=torch.uint64), grad.new_empty(0)  # the state of a dropout that is not there
        found: Parts = torch.ops.aten._flash_attention_backward(
            grad, *inputs, *results, *_bounds(block), 0.0, block.causal, *undrawn, scale=scale, **_window(block)
        )
        return found


def _bounds(block: Block) -> tuple[Tensor, Tensor, int, int]:
    """Bounds and lengths; of single queries with shared keys the kernel would compute several as one sequence."""
    queries, keys = block.queries, block.keys
    return queries.bounds, keys.bounds, max(2, queries.longest), keys.longest


def _window(block: Block) -> dict[str, int]:
    """Keys that a query sees before its own place and behind it."""
    return {} if block.window is None else {"window_size_left": block.window - 1, "window_size_right": 0}
