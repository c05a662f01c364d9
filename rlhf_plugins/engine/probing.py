"""Finds the layout for a model by a trial: a small batch in that layout against separate rows. It knows no loss."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.data.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine import SHARED_ROWS, SPANS, attention
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
from rlhf_plugins.engine.layers import FULL, SLIDING, attention_types

logger = logging.getLogger(__name__)
DESCRIPTIONS = {
    Layout.PACKED: "packed groups, attention span by span",
    Layout.ROWS: "one row per group, under a mask",
    Layout.SEPARATE: "prompts are computed once per response",
}


def layout_of(model: Any, *others: Any) -> Layout:
    """The layout with the least work in which a model, and each of the others that is not None, computes correctly.

    The trial runs at a model's first batch; its result is logged once with the reason, and kept on the model.
    """
    layouts = {_layout(each) for each in (model, *others) if each is not None}
    return layouts.pop() if len(layouts) == 1 else Layout.SEPARATE


def _layout(model: Any) -> Layout:
    trunk = trunk_of(model)
    return trial_result(trunk, "layout", lambda: _trial(trunk)) if SHARED_ROWS.active(trunk) else Layout.SEPARATE


def _trial(trunk: Any) -> Layout:
    layout, reason = _best(trunk)
    log = logger.info if layout is Layout.PACKED else logger.warning
    log("%s: %s%s", type(trunk).__name__, DESCRIPTIONS[layout], f", because {reason}" if reason else "")
    trial_result(trunk, TRIMS, lambda: _trims(trunk, layout))
    return layout


def _best(trunk: Any) -> tuple[Layout, str | None]:
    """The best layout that passes, and why a better one does not."""
    if not is_causal(trunk):
        return Layout.SEPARATE, "its attention is bidirectional"
    kinds = attention_types(trunk.config)
    if others := set(kinds) - {FULL, SLIDING}:
        return Layout.SEPARATE, f"it has layers of type {', '.join(sorted(others))}"
    untested = f"attention by spans was not tested in {trunk.dtype} on a device of type {trunk.device.type}"
    reason = _failure(trunk, Layout.PACKED) if SPANS.active(trunk) else untested
    if reason is None:
        return Layout.PACKED, None
    if SLIDING in kinds:
        return Layout.SEPARATE, reason
    return (Layout.ROWS, reason) if (worse := _failure(trunk, Layout.ROWS)) is None else (Layout.SEPARATE, worse)


def _failure(trunk: Any, layout: Layout) -> str | None:
    """Why the trial of a layout fails; None if it passes, and then the model is ready for the layout."""
    with _prepared(trunk, layout) as keep:
        try:
            error, reason = _disagreement(trunk, layout)
        except Exception as failure:  # an architecture may refuse the mask with any exception
            return f"it does not take a 4-D attention mask ({type(failure).__name__})"
        if reason is None and not error < rounding(trunk):  # also True for NaN
            reason = f"shared rows change its hidden states by {error:.2%}"
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
    return BranchBatch.from_inputs({k: v.to(trunk.device) for k, v in collate(groups, 0, layout).items()})


def _disagreement(trunk: Any, layout: Layout) -> tuple[float, str | None]:
    """The largest difference from the hidden states of separate rows, relative to the largest, and any other fault."""
    states, batch = [], _batch(trunk, layout)
    with evaluating(trunk):
        inputs = model_inputs(trunk, batch)
        packed = getattr(inputs["attention_mask"], "packed", None)
        for rows in (batch, _batch(trunk, Layout.SEPARATE)):
            given = inputs if rows is batch else model_inputs(trunk, rows)
            flat: Tensor = trunk(**given).last_hidden_state.flatten(0, 1)
            states.append(flat[rows.index].float().masked_fill(~rows.mask.unsqueeze(-1), 0.0))
    error = float((states[0] - states[1]).abs().max() / states[1].abs().max())
    return error, None if packed is None else _unsupported_option(packed, attention_types(trunk.config))


def _unsupported_option(packed: attention.PackedRow, kinds: list[str]) -> str | None:
    """An option of its attention that packed rows do not support, or a sliding window that its layers do not pass."""
    if packed.unknown_options:
        return f"its attention has the options {', '.join(sorted(packed.unknown_options))}"
    if kinds.count(SLIDING) != sum(window is not None for window in packed.windows):
        return "its layers do not pass the sliding window to their attention"
    return None


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
