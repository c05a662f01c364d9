"""Finds the layout for a model by a trial: a small batch in that layout against separate rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rlhf_plugins.data.batches.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine import SHARED_ROWS, SPANS, VARLEN, attention
from rlhf_plugins.engine.attention import packed_mask
from rlhf_plugins.engine.forward import (
    TRIMS,
    evaluating,
    is_causal,
    last_feed_forward,
    model_inputs,
    probe_ids,
    sequence_states,
    trial_result,
    trimmed_states_at,
    trunk_of,
)
from rlhf_plugins.engine.layers import FULL, SLIDING, attention_types, short_windows
from rlhf_plugins.engine.out_of_memory import inconclusive
from rlhf_plugins.engine.varlen import Heads

logger = logging.getLogger(__name__)
DESCRIPTIONS = {
    Layout.PACKED: "packed groups, attention span by span",
    Layout.EITHER: "packed groups, attention in two calls, or one row per group where that costs less",
    Layout.ROWS: "one row per group, under a mask",
    Layout.SEPARATE: "prompts are computed once per response",
}

TRIED = ((130, 70, 40), (3, 65, 1))  # tokens of prompts and branches: more than a GPU's kernel takes at once
WINDOW = 67  # tokens of a sliding window for these


def layout_of(model: Any, *others: Any) -> Layout:
    """The layout with the least work in which a model, and each of the others that is not None, computes correctly.

    The trial runs at a model's first batch; its result is logged once with the reason, and kept on the model.
    """
    layouts = {_layout(each) for each in (model, *others) if each is not None}
    if len(layouts) > 1:
        layouts.discard(Layout.EITHER)  # such a model computes what the others do
    return layouts.pop() if len(layouts) == 1 else Layout.SEPARATE


def _layout(model: Any) -> Layout:
    trunk = trunk_of(model)
    return trial_result(trunk, "layout", lambda: _trial(trunk)) if SHARED_ROWS.active(trunk) else Layout.SEPARATE


def _trial(trunk: Any) -> Layout:
    layout, reason = _best(trunk)
    log = logger.info if layout in (Layout.PACKED, Layout.EITHER) else logger.warning
    log("%s: %s%s", type(trunk).__name__, DESCRIPTIONS[layout], f", because {reason}" if reason else "")
    trial_result(trunk, TRIMS, lambda: _trims(trunk, Layout.PACKED if layout is Layout.EITHER else layout))
    return layout


def _best(trunk: Any) -> tuple[Layout, str | None]:
    """The best layout that passes, and why a better one does not."""
    if not is_causal(trunk):
        return Layout.SEPARATE, "its attention is bidirectional"
    kinds = attention_types(trunk.config)
    if others := set(kinds) - {FULL, SLIDING}:
        return Layout.SEPARATE, f"it has layers of type {', '.join(sorted(others))}"
    reason = _untested(trunk) or _failure(trunk, Layout.PACKED)
    if reason is None:
        always = SPANS.active(trunk) or SLIDING in kinds or _failure(trunk, Layout.ROWS)
        return (Layout.PACKED if always else Layout.EITHER), None
    if SLIDING in kinds:
        return Layout.SEPARATE, reason
    return (Layout.ROWS, reason) if (worse := _failure(trunk, Layout.ROWS)) is None else (Layout.SEPARATE, worse)


def _untested(trunk: Any) -> str | None:
    """Why packed groups are not tried."""
    if SPANS.active(trunk) or VARLEN.active(trunk):
        return None
    return f"attention by spans was not tested in {trunk.dtype} on a device of type {trunk.device.type}"


def _failure(trunk: Any, layout: Layout) -> str | None:
    """Why the trial of a layout fails; None if it passes, and then the model is ready for the layout."""
    with _prepared(trunk, layout) as keep:
        try:
            reason = _disagreement(trunk, layout)
            if reason is None and SLIDING in attention_types(trunk.config):
                with short_windows(trunk):
                    reason = _disagreement(trunk, layout)
        except Exception as failure:  # an architecture may refuse the mask with any exception, a device the kernel
            if inconclusive(failure):
                raise
            what = "packed groups" if layout is Layout.PACKED else "a 4-D attention mask"
            line = str(failure).partition("\n")[0]
            return f"it does not take {what} ({type(failure).__name__}: {line})"
        keep.extend([True] * (reason is None))
    return reason


@contextmanager
def _prepared(trunk: Any, layout: Layout) -> Iterator[list[bool]]:
    """Sets the attention for a layout; restores the former one unless the block appends to the list that it gets."""
    configs = {id(config): config for config in (trunk.config, trunk.config.get_text_config())}.values()
    before, keep = [config._attn_implementation for config in configs], list[bool]()
    if layout is Layout.PACKED:
        for config in configs:
            config._attn_implementation = attention.NAME
    try:
        yield keep
    finally:
        if not keep:
            for config, name in zip(configs, before, strict=True):
                config._attn_implementation = name


def rounding(model: Any) -> float:
    """The largest relative difference that counts as rounding; ignored positions may change as little as 0.1%."""
    quantized = getattr(model.config, "quantization_config", None) is not None
    return float(torch.finfo(torch.bfloat16 if quantized else model.dtype).eps ** 0.5)


def _batch(trunk: Any, layout: Layout) -> BranchBatch:
    ids = probe_ids(trunk, 24)
    groups = [PromptBranches(ids[:8], [ids[8:13], ids[13:24]]), PromptBranches(ids[3:8], [ids[1:4]])]
    return _laid(groups, layout, trunk.device)


def _laid(groups: list[PromptBranches], layout: Layout, device: torch.device) -> BranchBatch:
    return BranchBatch.from_inputs({k: v.to(device) for k, v in collate(groups, 0, layout).items()})


def _disagreement(trunk: Any, layout: Layout) -> str | None:
    """What a layout changes or does not support; None where its hidden states are those of separate rows."""
    error, packed = _difference(trunk, layout)
    if packed is not None:
        fault = _unsupported_option(packed, attention_types(trunk.config))
        fault = fault if fault or SPANS.active(trunk) else _kernel_fault(packed)
        if fault is not None:
            return fault
    return None if error < rounding(trunk) else f"shared rows change its hidden states by {error:.2%}"  # NaN, too


def _difference(trunk: Any, layout: Layout) -> tuple[float, attention.PackedRow | None]:
    """The largest difference from the hidden states of separate rows, relative to the largest, and the packed row."""
    states, batch = [], _batch(trunk, layout)
    with evaluating(trunk):
        inputs = model_inputs(trunk, batch)
        packed = getattr(inputs["attention_mask"], "packed", None)
        for rows in (batch, _batch(trunk, Layout.SEPARATE)):
            given = inputs if rows is batch else model_inputs(trunk, rows)
            flat: Tensor = trunk(**given).last_hidden_state.flatten(0, 1)
            states.append(flat[rows.index].float().masked_fill(~rows.mask.unsqueeze(-1), 0.0))
    return float((states[0] - states[1]).abs().max() / states[1].abs().max()), packed


def _unsupported_option(packed: attention.PackedRow, kinds: list[str]) -> str | None:
    """An option of its attention that packed rows do not support, or a sliding window that its layers do not pass."""
    if packed.unknown_options:
        return f"its attention has the options {', '.join(sorted(packed.unknown_options))}"
    if kinds.count(SLIDING) != sum(window is not None for window in packed.windows):
        return "its layers do not pass the sliding window to their attention"
    return None


def _kernel_fault(packed: attention.PackedRow) -> str | None:
    """What is wrong with a GPU's kernel for packed rows in these layers."""
    if len(packed.heads) < len(packed.windows):
        return "its attention has options that the kernel for packed rows lacks"
    for heads in set(packed.heads):
        error = _kernel_error(heads, packed.batch.input_ids.device)
        if not error < 4 * torch.finfo(heads.dtype).eps:  # also True for NaN
            window = " under a sliding window" if heads.windowed else ""
            return f"the kernel for packed rows errs by {error:.2%} with {heads.queries} heads of {heads.width}{window}"
    return None


def _kernel_error(heads: Heads, device: torch.device) -> float:
    """Largest error of outputs and gradients, each relative to its largest number; float32 under a mask is right."""
    groups = [PromptBranches([1] * prompt, [[1] * count for count in branches]) for prompt, *branches in TRIED]
    batch = _laid(groups, Layout.PACKED, device)
    draw, tokens = torch.Generator().manual_seed(0), batch.input_ids.shape[1]
    shapes = [(1, count, tokens, heads.width) for count in (heads.queries, heads.keys, heads.keys, heads.queries)]
    q, k, v, grad = (torch.randn(shape, generator=draw).to(device, heads.dtype) for shape in shapes)
    packed: attention.PackedRow = packed_mask(batch).packed  # type: ignore[attr-defined]
    window, at = WINDOW if heads.windowed else None, batch.position_ids[0]
    visible = batch.visible() if window is None else batch.visible() & (at.unsqueeze(1) - at < window)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        q, k, v = (each.clone().requires_grad_() for each in (q, k, v))
        right = scaled_dot_product_attention(q.float(), k.float(), v.float(), visible, enable_gqa=True)
        both = right.to(heads.dtype), packed.all_at_once(q, k, v, heads.width**-0.5, window)
        results = [[each.detach(), *torch.autograd.grad(each, (q, k, v), grad)] for each in both]
    pairs = [(found.float(), right.float()) for right, found in zip(*results, strict=True)]
    return max(float((found - right).abs().max() / right.abs().max()) for found, right in pairs)


def _trims(trunk: Any, layout: Layout) -> bool:
    """Whether the last layer's feed-forward block may compute some tokens alone."""
    if last_feed_forward(trunk) is None:
        return False
    batch = _batch(trunk, layout)
    try:
        with evaluating(trunk):
            trimmed = trimmed_states_at(trunk, batch, batch.last).float()
            expected = sequence_states(trunk, batch)[torch.arange(len(batch.last)), batch.mask.sum(1) - 1].float()
    except (RuntimeError, TypeError, IndexError):
        return False
    return float((trimmed - expected).abs().max() / expected.abs().max()) < rounding(trunk)
