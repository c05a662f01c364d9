"""Attention over groups packed into one row, computed span by span.

It is registered with transformers under `NAME`, and computes the attention if the attention mask was made by
`packed_mask`; a mask that brings an attention of its own is attended by that, and every other call goes to
transformers' SDPA. The prompt and the first branch of a group are one causal sequence; each other branch attends to the
prompt and, causally, to itself, and the two results are merged by their log-sum-exps, forward and backward, as
FlashAttention merges blocks (Dao et al. 2022, section 3.1). On a CPU neighbouring groups of equal lengths are computed
in one call; on a GPU `varlen` computes all groups in two calls, or in one under a sliding window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import sdpa_mask

from rlhf_plugins.engine import SPANS, VARLEN

if TYPE_CHECKING:
    from rlhf_plugins.data.batches.branches import BranchBatch
    from rlhf_plugins.engine.varlen import Heads, RowSequences

NAME = "rlhf_packed"
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
KNOWN_OPTIONS = {"sliding_window", "softcap", "is_causal", "position_ids", "use_cache", "cache_position"}

Parts = tuple[Tensor, ...]


@dataclass(frozen=True)
class Spans:
    """Token ranges of one group, counted from its first token."""

    size: int
    first: slice  # the prompt and the first branch
    prompt: slice
    rest: slice  # all other branches
    branches: tuple[slice, ...]  # each other branch


@dataclass(frozen=True)
class EqualGroups:
    """Neighbouring groups of equal lengths."""

    spans: Spans
    at: slice  # their tokens in the row

    def of(self, *tensors: Tensor) -> Parts:
        """Their part of tensors (1, heads, N, ...), as views (groups, heads, size, ...)."""
        own = (tensor[0, :, self.at].unflatten(1, (-1, self.spans.size)) for tensor in tensors)
        return tuple(tensor.transpose(0, 1) for tensor in own)


@dataclass
class PackedRow:
    """The groups of a row, and the options that attention layers passed for it."""

    lengths: Sequence[Sequence[int]]  # tokens of each group's prompt and branches
    batch: BranchBatch
    windows: list[int | None] = field(default_factory=list)  # the sliding window that each layer passed
    heads: list[Heads] = field(default_factory=list)  # of each layer that was computed all at once
    sequences: dict[int | None, RowSequences] = field(default_factory=dict)  # for these, by sliding window
    unknown_options: set[str] = field(default_factory=set)
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)  # by group and sliding window

    @cached_property
    def groups(self) -> list[slice]:
        """The tokens of each group."""
        return [slice(start, end) for start, end in pairwise(accumulate(map(sum, self.lengths), initial=0))]

    @cached_property
    def runs(self) -> list[EqualGroups]:
        """The groups for a kernel that takes sequences of equal lengths."""
        runs: list[EqualGroups] = []
        for spans, place in zip((_spans(*group) for group in self.lengths), self.groups, strict=True):
            if runs and runs[-1].spans == spans:
                place = slice(runs.pop().at.start, place.stop)
            runs.append(EqualGroups(spans, place))
        return runs

    def is_cut_by(self, window: int | None) -> bool:
        """Whether a sliding window hides any token from another one of its sequence."""
        return window is not None and max(prompt + max(branches) for prompt, *branches in self.lengths) > window

    def all_at_once(self, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention by a kernel that takes sequences of any lengths; tensors are (1, heads, N, width)."""
        from rlhf_plugins.engine import varlen

        window = window if self.is_cut_by(window) else None
        self.heads.append(varlen.Heads(query.shape[1], key.shape[1], query.shape[-1], query.dtype, window is not None))
        if window not in self.sequences:
            self.sequences[window] = varlen.row_sequences(self.lengths, query.device, window)
        return varlen.attention(query, key, value, scale, (self.sequences[window], varlen.Flash))

    def mask(self, group: int, window: int | None) -> Tensor:
        """Which token of a group attends to which, (n, n) bool."""
        key = group, window if self.is_cut_by(window) else None
        if key not in self.masks:
            own = self.groups[group]
            visible = self.batch.visible(own)[0]
            if key[1] is not None:
                at = self.batch.position_ids[0, own]
                visible = visible & (at.unsqueeze(1) - at.unsqueeze(0) < key[1])
            self.masks[key] = visible
        return self.masks[key]


def packed_mask(batch: BranchBatch) -> Tensor:
    """The attention mask of a packed row: an empty tensor whose attribute `packed` holds the groups.

    Decoders pass a 4-D mask on to their attention unchanged.
    """
    assert batch.sizes is not None
    mask = torch.empty(1, 1, 1, 0, device=batch.input_ids.device)
    mask.packed = PackedRow(batch.sizes.rows[0], batch)  # type: ignore[attr-defined]
    return mask


def _spans(*lengths: int) -> Spans:
    """The spans of a prompt and its branches, given their lengths."""
    ends = list(accumulate(lengths))
    branches = tuple(slice(start, end) for start, end in pairwise(ends[1:]))
    return Spans(ends[-1], slice(0, ends[1]), slice(0, ends[0]), slice(ends[1], ends[-1]), branches)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention over a packed row; over any other, transformers' SDPA.

    Args:
        module: the attention layer.
        query: (1, heads, N, width).
        key: (1, key heads, N, width).
        value: (1, key heads, N, value width).
        attention_mask: made by `packed_mask`, or any other.
        options: passed by the layer, such as `dropout`, `scaling`, `sliding_window`, `softcap`.

    Returns:
        (1, N, heads, value width), and None in place of the attention weights.
    """
    if (attend := getattr(attention_mask, "attend", None)) is not None:  # a mask that brings its own attention
        return attend(query, key, value, attention_mask, **options), None
    packed: PackedRow | None = getattr(attention_mask, "packed", None)
    if packed is None:
        from rlhf_plugins.engine import shared_keys

        other = shared_keys.attention if options.get("softcap") is None else _softcapped_attention
        return other(module, query, key, value, attention_mask, **options)
    return _packed_attention(query, key, value, packed, **options), None


@torch.compiler.disable  # each row has other groups
def _packed_attention(query: Tensor, key: Tensor, value: Tensor, packed: PackedRow, **options: Any) -> Tensor:
    """See `packed_attention`."""
    dropout, scale = options.pop("dropout", 0.0), options.pop("scaling", None)
    packed.unknown_options |= {name for name, option in options.items() if option is not None} - KNOWN_OPTIONS
    window, cap = options.get("sliding_window"), options.get("softcap")
    packed.windows.append(window)
    query, key, value = in_autocast(query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    plain = query.shape[-1] == value.shape[-1] and not (dropout or cap)
    if plain and SPANS.active(query) and not packed.is_cut_by(window):
        output = _SpanAttention.apply(query, key, value, scale, packed.runs)
    elif plain and VARLEN.active(query):
        output = packed.all_at_once(query, key, value, scale, window)
    else:
        key, value = _repeat_heads(query, key, value)
        output = _by_group(query, key, value, packed, _group_attention(scale, cap, dropout, window))
    return output.transpose(1, 2).contiguous()


def _repeat_heads(query: Tensor, *shared: Tensor) -> Parts:
    """Keys or values (1, key heads, ...) repeated for the queries that share them, (1, heads, ...)."""
    repeats = query.shape[1] // shared[0].shape[1]
    return tuple(repeat_kv(tensor, repeats) for tensor in shared)


def in_autocast(*tensors: Tensor) -> Parts:
    """The tensors in autocast's precision where it is on, as SDPA casts them: rotary embeddings return float32."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)


def _softcapped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention with capped logits, which SDPA lacks, under a mask made by transformers; arguments as above."""
    if attention_mask is None:  # causal attention, in which the queries are the last tokens of the keys
        unmasked = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = unmasked.tril(key.shape[2] - query.shape[2])
    key, value = _repeat_heads(query, key, value)
    output = _softcapped(query, key, value, attention_mask, options["scaling"], options["softcap"], options["dropout"])
    return output.transpose(1, 2).contiguous(), None


def _softcapped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, cap: float, dropout: float
) -> Tensor:
    """softmax(cap tanh(q k / cap)) v under a bool mask (Gemma 2, section 2)."""
    logits = cap * torch.tanh(query @ key.transpose(-1, -2) * scale / cap)
    weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(-1, dtype=_at_least_float32(query))
    return torch.dropout(weights.to(query.dtype), dropout, train=True) @ value


GroupAttention = Callable[[Tensor, Tensor, Tensor, PackedRow, int], Tensor]


def _group_attention(scale: float, cap: float | None, dropout: float, window: int | None) -> GroupAttention:
    """Attention within one group under its mask."""

    def attention(query: Tensor, key: Tensor, value: Tensor, packed: PackedRow, group: int) -> Tensor:
        mask = packed.mask(group, window)
        if cap is None:
            return scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
        return _softcapped(query, key, value, mask, scale, cap, dropout)

    return attention


def _by_group(query: Tensor, key: Tensor, value: Tensor, packed: PackedRow, attention: GroupAttention) -> Tensor:
    sizes = [place.stop - place.start for place in packed.groups]
    parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    return torch.cat([attention(q, k, v, packed, group) for group, (q, k, v) in enumerate(parts)], 2)


class _SpanAttention(torch.autograd.Function):
    """Exact attention by spans with the CPU's flash kernels, which also return the log-sum-exp of each query.

    Keys and values that several heads share are saved once, and repeated for the kernels.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, runs: Sequence[EqualGroups]) -> Any:
        inputs = query, *_repeat_heads(query, key, value)
        results = [_forward(run.spans, run.of(*inputs), scale) for run in runs]
        output, lse = _to_row([out for out, _ in results]), _to_row([own for _, own in results])
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.scale, ctx.runs = scale, runs
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, *shared, output, lse = ctx.saved_tensors
        inputs = (grads[0], query, *_repeat_heads(query, *shared), output, lse)
        results = [_backward(run.spans, run.of(*inputs), ctx.scale) for run in ctx.runs]
        query_grad, *repeated_grads = (_to_row(parts) for parts in zip(*results, strict=True))
        return query_grad, *(_sum_heads(grad, shared[0].shape[1]) for grad in repeated_grads), None, None


def _sum_heads(grad: Tensor, heads: int) -> Tensor:
    """The backward pass of `_repeat_heads`: (1, heads, ...) to (1, key heads, ...)."""
    return grad if grad.shape[1] == heads else grad.unflatten(1, (heads, -1)).sum(2)


def _to_row(runs: Sequence[Tensor]) -> Tensor:
    """The results of all runs, each (groups, heads, size, ...), as (1, heads, N, ...)."""
    rows = [part.transpose(1, 2).flatten(0, 1) for part in runs]
    return (rows[0] if len(rows) == 1 else torch.cat(rows)).unsqueeze(0).transpose(1, 2)


def _forward(spans: Spans, inputs: Parts, scale: float) -> Parts:
    """Output and log-sum-exps of equal groups, given queries, keys and values (groups, heads, size, width)."""
    query, key, value = inputs
    first = FLASH(*_slice(spans.first, query, key, value), is_causal=True, scale=scale)
    if not spans.branches:
        return first[0], first[1]
    return tuple(torch.cat(both, 2) for both in zip(first, _rest(spans, query, key, value, scale), strict=True))


def _rest(spans: Spans, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Parts:
    """Output and log-sum-exps of all branches but the first; inputs are (groups, heads, size, width)."""
    prompt_output, prompt_lse = FLASH(*_slice(spans.rest, query), *_slice(spans.prompt, key, value), scale=scale)
    branch_output, branch_lse = torch.empty_like(prompt_output), torch.empty_like(prompt_lse)
    for branch in spans.branches:
        local = slice(branch.start - spans.rest.start, branch.stop - spans.rest.start)
        own = _slice(branch, query, key, value)
        branch_output[:, :, local], branch_lse[:, :, local] = FLASH(*own, is_causal=True, scale=scale)
    return merge((prompt_output, prompt_lse), (branch_output, branch_lse))


def merge(one: Parts, other: Parts) -> Parts:
    """The output (..., tokens, width) and log-sum-exps (..., tokens) over the keys of both, given those over each."""
    (output, lse), (other_output, other_lse) = one, other
    both = torch.logaddexp(lse, other_lse)
    share = (lse - both).exp().unsqueeze(-1)
    weighted = output * share
    weighted += other_output * (1 - share)
    return weighted.to(output.dtype), both


def _backward(spans: Spans, inputs: Parts, scale: float) -> Parts:
    """Gradients of queries, keys and values of equal groups; all (groups, heads, size, ...)."""
    grad, query, key, value, output, lse = inputs

    def block_grads(queries: slice, keys: slice, causal: bool) -> Parts:
        """The gradients of one block; the log-sum-exp of a query is the one over all keys that it attends to."""
        (g, q, out, own), (k, v) = _slice(queries, grad, query, output, lse), _slice(keys, key, value)
        grads: Parts = FLASH_BACKWARD(g, q, k, v, out, own, 0.0, causal, scale=scale)
        return grads

    first = block_grads(spans.first, spans.first, True)
    if not spans.branches:
        return first
    own = zip(first, *(block_grads(branch, branch, True) for branch in spans.branches), strict=True)
    totals = tuple(torch.cat(parts, 2) for parts in own)
    across = block_grads(spans.rest, spans.prompt, False)
    for total, part in zip((*_slice(spans.rest, totals[0]), *_slice(spans.prompt, *totals[1:])), across, strict=True):
        total.add_(part)
    return totals


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _slice(place: slice, *tensors: Tensor) -> Parts:
    return tuple(tensor[:, :, place] for tensor in tensors)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
