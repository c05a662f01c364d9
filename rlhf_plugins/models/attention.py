"""Attention of groups packed into one row, computed span by span. It knows queries, keys and values, no model.

It is registered with transformers under `NAME`, and takes the place of a model's attention where the attention mask is
the one that `packed_mask` made; every other call goes to transformers' own SDPA. A group costs what its tokens really
see: its prompt and first branch are one causal sequence; every other branch sees the prompt, and itself causally, and
the two are merged by their log-sum-exps, forward and backward, as FlashAttention merges blocks (Dao et al. 2022,
section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    """Where one group stands in the row."""

    first: slice  # its prompt and first branch
    prompt: slice
    rest: slice  # its other branches
    branches: tuple[slice, ...]  # each of them


@dataclass
class Packed:
    """Where the groups of a row stand, and what was asked of the attention over it."""

    spans: Sequence[Span]
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
            span = self.spans[group]
            own = slice(span.first.start, span.rest.stop)
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
    mask.packed = Packed(_spans(batch.segment[0], batch.parent[0]), batch)  # type: ignore[attr-defined]
    return mask


def _spans(segment: Tensor, parent: Tensor) -> list[Span]:
    _, counts = segment.unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).tolist()
    own = parent[starts].tolist()  # by segment: its prompt's number, from 0 in order
    parts = [slice(start, start + count) for start, count in zip(starts, counts.tolist(), strict=True)]
    groups: dict[int, list[slice]] = {}
    for number, part in zip(own, parts, strict=True):
        groups.setdefault(number, []).append(part)
    return [_span(*group) for group in groups.values()]


def _span(prompt: slice, first: slice, *rest: slice) -> Span:
    end = rest[-1].stop if rest else first.stop
    return Span(slice(prompt.start, first.stop), prompt, slice(first.stop, end), rest)


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
    repeats = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    query, key, value = _cast(query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    same_width = query.shape[-1] == value.shape[-1]
    if query.device.type == "cpu" and same_width and not (dropout or cap or packed.narrow(window)):
        mixed = _BySpan.apply(query, key, value, scale, packed.spans)
    else:
        mixed = _by_group(query, key, value, packed, _mixing(scale, cap, dropout, window))
    return mixed.transpose(1, 2).contiguous(), None


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
    repeats = query.shape[1] // key.shape[1]
    if attention_mask is None:  # then it is causal, and the queries are the last of the keys' tokens
        unmasked = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = unmasked.tril(key.shape[2] - query.shape[2])
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
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
    sizes = [span.rest.stop - span.first.start for span in packed.spans]
    parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    return torch.cat([mix(q, k, v, packed, group) for group, (q, k, v) in enumerate(parts)], 2)


class _BySpan(torch.autograd.Function):
    """Exact attention by spans with the CPU's flash kernels, which also give each query's log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, spans: Sequence[Span]) -> Tensor:
        mixed, lse = torch.empty_like(query), query.new_empty(query.shape[:3], dtype=_precise(query))
        for span in spans:
            own = _at(span.first, query, key, value)
            mixed[:, :, span.first], lse[:, :, span.first] = FLASH(*own, is_causal=True, scale=scale)
            if not span.branches:
                continue
            of_prompt, prompt_lse = FLASH(*_at(span.rest, query), *_at(span.prompt, key, value), scale=scale)
            of_branch, branch_lse = torch.empty_like(of_prompt), torch.empty_like(prompt_lse)
            for branch in span.branches:
                local = slice(branch.start - span.rest.start, branch.stop - span.rest.start)
                own = _at(branch, query, key, value)
                of_branch[:, :, local], branch_lse[:, :, local] = FLASH(*own, is_causal=True, scale=scale)
            total = torch.logaddexp(prompt_lse, branch_lse)
            share = (prompt_lse - total).exp().unsqueeze(-1)
            mixed[:, :, span.rest] = of_prompt * share + of_branch * (1 - share)
            lse[:, :, span.rest] = total
        ctx.save_for_backward(query, key, value, mixed, lse)
        ctx.scale, ctx.spans = scale, spans
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mixed, lse = ctx.saved_tensors
        grad = grads[0]
        found = tuple(torch.empty_like(tensor) for tensor in (query, key, value))

        def pull(queries: slice, keys: slice, causal: bool) -> zip[tuple[Tensor, Tensor]]:
            """A block's gradients beside where they go; a query's log-sum-exp is that of all keys that it sees."""
            (g, q, out, total), (k, v) = _at(queries, grad, query, mixed, lse), _at(keys, key, value)
            gradients = FLASH_BACKWARD(g, q, k, v, out, total, 0.0, causal, scale=ctx.scale)
            return zip((*_at(queries, found[0]), *_at(keys, *found[1:])), gradients, strict=True)

        for span in ctx.spans:
            for own in (span.first, *span.branches):
                for place, part in pull(own, own, True):
                    place.copy_(part)
            for place, part in pull(span.rest, span.prompt, False) if span.branches else ():
                place.add_(part)
        return *found, None, None


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _at(place: slice, *tensors: Tensor) -> Parts:
    return tuple(tensor[:, :, place] for tensor in tensors)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
