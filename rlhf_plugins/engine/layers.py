"""What a decoder says of its layers: their stack, their attention, and whether their activations are recomputed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

CHECKPOINTING = "gradient_checkpointing"  # a flag of each layer that recomputes its activations
RECOMPUTING = "_gradient_checkpointing_func"  # what such a layer computes by
FULL, SLIDING = "full_attention", "sliding_attention"
SHORT = 4  # tokens of a sliding window in a trial
GATED = ("gate_proj", "up_proj", "down_proj")  # the layers of a gated block, in models that transformers has


def decoder_layers(trunk: Any) -> nn.ModuleList | None:
    """The trunk's stack of layers; None if there is no list of as many modules as the configuration has layers."""
    count = trunk.config.get_text_config().num_hidden_layers
    return next((m for m in trunk.modules() if isinstance(m, nn.ModuleList) and len(m) == count), None)


def attention_types(config: Any) -> list[str]:
    """The type of each layer's attention, in the words of transformers."""
    config = config.get_text_config()
    if kinds := getattr(config, "layer_types", None):
        return list(kinds)
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return [SLIDING if window else FULL] * config.num_hidden_layers


def attention_windows(config: Any) -> dict[str, int | None]:
    """The sliding window of each type of attention that a model's layers have, in tokens; None where all are seen."""
    window = getattr(config.get_text_config(), "sliding_window", None)
    return {kind: window if kind == SLIDING else None for kind in attention_types(config)}


@contextmanager
def short_windows(model: Any) -> Iterator[None]:
    """For the block, sliding windows of a model have `SHORT` tokens at most, fewer than the rows of a trial."""
    configs = {id(one): one for one in (model.config, model.config.get_text_config())}.values()
    windows = [(one, getattr(one, "sliding_window", None)) for one in (*configs, *model.modules())]
    longer = [(one, window) for one, window in windows if isinstance(window, int) and window > SHORT]
    try:
        for one, _ in longer:
            one.sliding_window = SHORT
        yield
    finally:
        for one, window in longer:
            one.sliding_window = window


def checkpointing(model: nn.Module) -> list[nn.Module]:
    """The modules of a model that use gradient checkpointing."""
    return [module for module in model.modules() if vars(module).get(CHECKPOINTING)]
