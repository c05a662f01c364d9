"""Which layouts a model takes: tried once on a small batch against separate rows, never assumed. It knows no loss."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.data.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine import attention
from rlhf_plugins.engine.forward import (
    evaluating,
    is_causal,
    last_mlp,
    model_inputs,
    probe_ids,
    sequence_states,
    states_at,
    trunk_of,
)

logger = logging.getLogger(__name__)
WORK = {
    Layout.PACKED: "packed groups, attention span by span",
    Layout.ROWS: "a row a group, under a mask",
    Layout.SEPARATE: "prompts are computed once per response",
}
FULL, SLIDING = "full_attention", "sliding_attention"


def layout_of(model: Any, *others: Any) -> Layout:
    """The layout with the least work that a model, and each of the others that is one, takes as it takes separate rows.

    What one model takes is found out at its first batch, logged once with the reason, and remembered on the model.
    """
    found = {_layout(each) for each in (model, *others) if each is not None}
    return found.pop() if len(found) == 1 else Layout.SEPARATE


def _layout(model: Any) -> Layout:
    trunk = trunk_of(model)
    if not hasattr(trunk, "_layout"):
        found, reason = _tried(trunk)
        say = logger.info if found is Layout.PACKED else logger.warning
        say("%s: %s%s", type(trunk).__name__, WORK[found], f", because {reason}" if reason else "")
        trunk._layout = found
        trunk._trims = _trims(trunk)
    return trunk._layout


def _tried(trunk: Any) -> tuple[Layout, str | None]:
    """The best layout, and why it is not a better one."""
    if not is_causal(trunk):
        return Layout.SEPARATE, "it reads in both directions"
    kinds = _kinds(trunk)
    if others := set(kinds) - {FULL, SLIDING}:
        return Layout.SEPARATE, f"it has layers of type {', '.join(sorted(others))}"
    reason = "attention span by span is for the CPU" if trunk.device.type != "cpu" else _refusal(trunk, Layout.PACKED)
    if reason is None:
        return Layout.PACKED, None
    if SLIDING in kinds:
        return Layout.SEPARATE, reason
    return (Layout.ROWS, reason) if (worse := _refusal(trunk, Layout.ROWS)) is None else (Layout.SEPARATE, worse)


def _kinds(trunk: Any) -> list[str]:
    """The attention of each layer."""
    config = trunk.config.get_text_config()
    if kinds := getattr(config, "layer_types", None):
        return list(kinds)
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return [SLIDING if window else FULL] * config.num_hidden_layers


def _refusal(trunk: Any, layout: Layout) -> str | None:
    """Why a layout cannot be had; None if it can. The model is left ready for it."""
    with _ready(trunk, layout) as keep:
        try:
            error, unlike = _disagreement(trunk, layout)
        except Exception as failure:  # an architecture may refuse the mask in any way of its own
            return f"it does not take a 4-D attention mask ({type(failure).__name__})"
        if unlike is None and not error < _rounding(trunk):  # NaN is not
            unlike = f"shared rows change its hidden states by {error:.2%}"
        keep.extend([True] * (unlike is None))
    return unlike


@contextmanager
def _ready(trunk: Any, layout: Layout) -> Iterator[list[bool]]:
    """The attention that a layout needs; it stays only where the list that is handed out is filled."""
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


def _rounding(trunk: Any) -> float:
    """What may be rounding: freshly initialised models that ignore positions differ by as little as 0.1%."""
    quantized = getattr(trunk.config, "quantization_config", None) is not None
    return float(torch.finfo(torch.bfloat16 if quantized else trunk.dtype).eps ** 0.5)


def _batch(trunk: Any, layout: Layout) -> BranchBatch:
    ids = probe_ids(trunk, 24)
    groups = [PromptBranches(ids[:8], [ids[8:13], ids[13:24]]), PromptBranches(ids[3:8], [ids[1:4]])]
    return BranchBatch.from_inputs({k: v.to(trunk.device) for k, v in collate(groups, 0, layout).items()})


def _disagreement(trunk: Any, layout: Layout) -> tuple[float, str | None]:
    """Largest change of a hidden state against separate rows, relative to the largest; and what else is wrong."""
    states, batch = [], _batch(trunk, layout)
    with evaluating(trunk):
        inputs = model_inputs(trunk, batch)
        packed = getattr(inputs["attention_mask"], "packed", None)
        for rows in (batch, _batch(trunk, Layout.SEPARATE)):
            given = inputs if rows is batch else model_inputs(trunk, rows)
            flat: Tensor = trunk(**given).last_hidden_state.flatten(0, 1)
            states.append(flat[rows.index].float().masked_fill(~rows.mask.unsqueeze(-1), 0.0))
    error = float((states[0] - states[1]).abs().max() / states[1].abs().max())
    return error, None if packed is None else _misread(packed, _kinds(trunk))


def _misread(packed: attention.Packed, kinds: list[str]) -> str | None:
    """What the layers did not tell their attention, or told it in words that it does not know."""
    if packed.strangers:
        return f"its attention is told {', '.join(sorted(packed.strangers))}"
    if kinds.count(SLIDING) != sum(window is not None for window in packed.windows):
        return "its layers do not tell their attention how wide they see"
    return None


def _trims(trunk: Any) -> bool:
    """Whether the last layer may work on the wanted places alone."""
    if last_mlp(trunk) is None:
        return False
    batch = _batch(trunk, trunk._layout)
    trunk._trims = True
    try:
        with evaluating(trunk):
            found = states_at(trunk, batch, batch.last).float()
            expected = sequence_states(trunk, batch)[torch.arange(len(batch.last)), batch.mask.sum(1) - 1].float()
    except (RuntimeError, TypeError, IndexError):
        return False
    return float((found - expected).abs().max() / expected.abs().max()) < _rounding(trunk)
