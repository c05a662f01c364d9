"""Attention of groups packed into one row, computed span by span. It knows queries, keys and values, no model.

It is registered with transformers under `NAME`, and takes the place of a model's attention where the attention mask is
the one that `packed_mask` made; every other call goes to transformers' own SDPA. A group costs what its tokens really
see: its prompt and first branch are one causal sequence; every other branch sees the prompt, and itself causally, and
the two are merged by their log-sum-exps, forward and backward, as FlashAttention merges blocks (Dao et al. 2022,
section 3.1). Neighbouring groups of the same lengths are one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from rlhf_plugins.data.branches import BranchBatch

NAME = "rlhf_packed"
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
UNDERSTOOD = {"sliding_window", "softcap", "is_causal", "position_ids", "use_cache", "cache_position"}

Parts = tuple[Tensor, ...]


@dataclass(frozen=True)
class Span:
    """How one group is laid out, counted from its own first token."""

    size: int
    first: slice  # its prompt and first branch
    prompt: slice
    rest: slice  # its other branches
    branches: tuple[slice, ...]  # each of them


@dataclass(frozen=True)
class Run:
    """Neighbouring groups of one layout."""

    span: Span
    at: slice  # where they stand in the row

    def of(self, *tensors: Tensor) -> Parts:
        """Their part of tensors (1, heads, N, ...), as views (groups, heads, size, ...)."""
        own = (tensor[0, :, self.at].unflatten(1, (-1, self.span.size)) for tensor in tensors)
        return tuple(tensor.transpose(0, 1) for tensor in own)


@dataclass
class Packed:
    """Where the groups of a row stand, and what was asked of the attention over it."""

    groups: Sequence[slice]
    runs: Sequence[Run]
    batch: BranchBatch
    windows: list[int | None] = field(default_factory=list)  # sliding window of each layer that asked
    strangers: set[str] = field(default_factory=set)  # arguments that are not understood
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)  # (group, window) -> who sees whom

    def narrow(self, window: int | None) -> bool:
        """Whether a sliding window hides anything here."""
        return window is not None and int(self.batch.position_ids.max()) >= window

    def mask(self, group: int, window: int | None) -> Tensor:
        """Which token of a group sees which, (n, n) bool."""
        key = group, window if self.narrow(window) else None
        if key not in self.masks:
            own = self.groups[group]
            seen = self.batch.visible(own)[0]
            if key[1] is not None:
                at = self.batch.position_ids[0, own]
                seen = seen & (at.unsqueeze(1) - at.unsqueeze(0) < key[1])
            self.masks[key] = seen
        return self.masks[key]


def packed_mask(batch: BranchBatch) -> Tensor:
    """The attention mask of a packed row: an empty tensor that carries where the groups stand.

    Decoders hand a 4-D mask through to their attention as it is.
    """
    mask = torch.empty(1, 1, 1, 0, device=batch.input_ids.device)
    spans = _spans(batch.segment[0], batch.parent[0])
    mask.packed = Packed(_places(spans), _runs(spans), batch)  # type: ignore[attr-defined]
    return mask


def _spans(segment: Tensor, parent: Tensor) -> list[Span]:
    _, counts = segment.unique_consecutive(return_counts=True)
    own = parent[counts.cumsum(0) - counts].tolist()  # by segment: its prompt's number, from 0 in order
    lengths: dict[int, list[int]] = {}
    for number, length in zip(own, counts.tolist(), strict=True):
        lengths.setdefault(number, []).append(length)
    return [_span(*group) for group in lengths.values()]


def _span(*lengths: int) -> Span:
    """The layout of a prompt and its branches, of such lengths."""
    ends = list(accumulate(lengths))
    branches = tuple(slice(start, end) for start, end in pairwise(ends[1:]))
    return Span(ends[-1], slice(0, ends[1]), slice(0, ends[0]), slice(ends[1], ends[-1]), branches)


def _places(spans: Sequence[Span]) -> list[slice]:
    return [slice(start, end) for start, end in pairwise(accumulate((span.size for span in spans), initial=0))]


def _runs(spans: Sequence[Span]) -> list[Run]:
    runs: list[Run] = []
    for span, place in zip(spans, _places(spans), strict=True):
        if runs and runs[-1].span == span:
            place = slice(runs.pop().at.start, place.stop)
        runs.append(Run(span, place))
    return runs


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed row; transformers' SDPA of any other.

    Args:
        module: the attention layer.
        query: (1, heads, N, width).
        key: (1, key heads, N, width).
        value: (1, key heads, N, value width).
        attention_mask: what `packed_mask` made, or any other.
        options: what the layer passes on, such as `dropout`, `scaling`, `sliding_window`, `softcap`.

    Returns:
        (1, N, heads, value width), and None for the weights that nobody keeps.
    """
    packed: Packed | None = getattr(attention_mask, "packed", None)
    if packed is None:
        other = sdpa_attention_forward if options.get("softcap") is None else _capped_attention
        return other(module, query, key, value, attention_mask, **options)
    dropout, scale = options.pop("dropout", 0.0), options.pop("scaling", None)
    packed.strangers |= {name for name, option in options.items() if option is not None} - UNDERSTOOD
    window, cap = options.get("sliding_window"), options.get("softcap")
    packed.windows.append(window)
    query, key, value = _cast(query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    same_width = query.shape[-1] == value.shape[-1]
    if query.device.type == "cpu" and same_width and not (dropout or cap or packed.narrow(window)):
        mixed = _BySpan.apply(query, key, value, scale, packed.runs)
    else:
        key, value = _repeated(query, key, value)
        mixed = _by_group(query, key, value, packed, _mixing(scale, cap, dropout, window))
    return mixed.transpose(1, 2).contiguous(), None


def _repeated(query: Tensor, *shared: Tensor) -> Parts:
    """Keys or values (1, key heads, ...), each head as often as queries share it, (1, heads, ...)."""
    repeats = query.shape[1] // shared[0].shape[1]
    return tuple(repeat_kv(tensor, repeats) for tensor in shared)


def _cast(*tensors: Tensor) -> Parts:
    """The tensors in autocast's precision where it is on, as SDPA takes them: rotations leave float32 behind."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)


def _capped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention with capped logits, which SDPA lacks, under a mask that transformers made; arguments as above."""
    if attention_mask is None:  # then it is causal, and the queries are the last of the keys' tokens
        unmasked = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = unmasked.tril(key.shape[2] - query.shape[2])
    key, value = _repeated(query, key, value)
    mixed = _capped(query, key, value, attention_mask, options["scaling"], options["softcap"], options["dropout"])
    return mixed.transpose(1, 2).contiguous(), None


def _capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, cap: float, dropout: float
) -> Tensor:
    """softmax(cap tanh(q k / cap)) v under a bool mask (Gemma 2, section 2)."""
    logits = cap * torch.tanh(query @ key.transpose(-1, -2) * scale / cap)
    weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(-1, dtype=_precise(query))
    return torch.dropout(weights.to(query.dtype), dropout, train=True) @ value


Mix = Callable[[Tensor, Tensor, Tensor, Packed, int], Tensor]


def _mixing(scale: float, cap: float | None, dropout: float, window: int | None) -> Mix:
    """Attention within one group under its mask."""

    def mix(query: Tensor, key: Tensor, value: Tensor, packed: Packed, group: int) -> Tensor:
        mask = packed.mask(group, window)
        if cap is None:
            return scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
        return _capped(query, key, value, mask, scale, cap, dropout)

    return mix


def _by_group(query: Tensor, key: Tensor, value: Tensor, packed: Packed, mix: Mix) -> Tensor:
    sizes = [place.stop - place.start for place in packed.groups]
    parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    return torch.cat([mix(q, k, v, packed, group) for group, (q, k, v) in enumerate(parts)], 2)


class _BySpan(torch.autograd.Function):
    """Exact attention by spans with the CPU's flash kernels, which also give each query's log-sum-exp.

    Keys and values that several heads share are saved once, and repeated for the kernels.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, runs: Sequence[Run]) -> Tensor:
        whole = query, *_repeated(query, key, value)
        found = [_forward(run.span, run.of(*whole), scale) for run in runs]
        mixed, lse = _in_a_row([out for out, _ in found]), _in_a_row([total for _, total in found])
        ctx.save_for_backward(query, key, value, mixed, lse)
        ctx.scale, ctx.runs = scale, runs
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, *shared, mixed, lse = ctx.saved_tensors
        known = (grads[0], query, *_repeated(query, *shared), mixed, lse)
        found = [_backward(run.span, run.of(*known), ctx.scale) for run in ctx.runs]
        of_query, *of_whole = (_in_a_row(parts) for parts in zip(*found, strict=True))
        return of_query, *(_summed(part, shared[0].shape[1]) for part in of_whole), None, None


def _summed(gradient: Tensor, heads: int) -> Tensor:
    """The gradient of what `_repeated` was given, (1, key heads, ...), of that of what it gave."""
    return gradient if gradient.shape[1] == heads else gradient.unflatten(1, (heads, -1)).sum(2)


def _in_a_row(parts: Sequence[Tensor]) -> Tensor:
    """What was computed run by run, each (groups, heads, size, ...), as (1, heads, N, ...)."""
    rows = [part.transpose(1, 2).flatten(0, 1) for part in parts]
    return (rows[0] if len(rows) == 1 else torch.cat(rows)).unsqueeze(0).transpose(1, 2)


def _forward(span: Span, known: Parts, scale: float) -> Parts:
    """What groups of one layout see, and its log-sum-exps, of queries, keys and values (groups, heads, size, width)."""
    query, key, value = known
    first = FLASH(*_at(span.first, query, key, value), is_causal=True, scale=scale)
    if not span.branches:
        return first[0], first[1]
    return tuple(torch.cat(both, 2) for both in zip(first, _branches(span, query, key, value, scale), strict=True))


def _branches(span: Span, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Parts:
    """What all branches but the first see, and its log-sum-exps; tensors are (groups, heads, size, width)."""
    of_prompt, prompt_lse = FLASH(*_at(span.rest, query), *_at(span.prompt, key, value), scale=scale)
    of_branch, branch_lse = torch.empty_like(of_prompt), torch.empty_like(prompt_lse)
    for branch in span.branches:
        local = slice(branch.start - span.rest.start, branch.stop - span.rest.start)
        own = _at(branch, query, key, value)
        of_branch[:, :, local], branch_lse[:, :, local] = FLASH(*own, is_causal=True, scale=scale)
    total = torch.logaddexp(prompt_lse, branch_lse)
    share = (prompt_lse - total).exp().unsqueeze(-1)
    return (of_prompt * share + of_branch * (1 - share)).to(query.dtype), total


def _backward(span: Span, known: Parts, scale: float) -> Parts:
    """The gradients of queries, keys and values of groups of one layout; all (groups, heads, size, ...)."""
    grad, query, key, value, mixed, lse = known

    def pull(queries: slice, keys: slice, causal: bool) -> Parts:
        """A block's gradients; a query's log-sum-exp is that of all keys that it sees."""
        (g, q, out, total), (k, v) = _at(queries, grad, query, mixed, lse), _at(keys, key, value)
        gradients: Parts = FLASH_BACKWARD(g, q, k, v, out, total, 0.0, causal, scale=scale)
        return gradients

    first = pull(span.first, span.first, True)
    if not span.branches:
        return first
    own = zip(first, *(pull(branch, branch, True) for branch in span.branches), strict=True)
    found = tuple(torch.cat(parts, 2) for parts in own)
    of_query, *of_prompt = pull(span.rest, span.prompt, False)
    for place, part in zip(
        (*_at(span.rest, found[0]), *_at(span.prompt, *found[1:])), (of_query, *of_prompt), strict=True
    ):
        place.add_(part)
    return found


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _at(place: slice, *tensors: Tensor) -> Parts:
    return tuple(tensor[:, :, place] for tensor in tensors)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
