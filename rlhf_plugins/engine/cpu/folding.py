"""Adapters folded into the weights of their layers during generation. It knows layers, no tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import nn

from rlhf_plugins.engine import FOLDING


@contextmanager
def folded(model: Any) -> Iterator[None]:
    """For the block, LoRA layers compute W + s B A in one product; afterwards W is bit for bit the same as before.

    A step of generation is a few small products per layer, and an adapter adds three: on a CPU they cost more than the
    base. The block holds the layers' weights twice. A layer that is quantized, tied to the embeddings or of less than
    float32 (in which the sum would be rounded) is left alone. The active adapter must not change within the block.
    """
    with torch.no_grad():
        layers = [layer for layer in model.modules() if _folds(layer, model)]
        kept = [(layer, layer.get_base_layer().weight, layer.get_base_layer().weight.data) for layer in layers]
        try:
            for layer, weight, data in kept:
                weight.data = data.clone()
                layer.merge()
            yield
        finally:
            for layer, weight, data in kept:
                layer.merged_adapters.clear()
                weight.data = data


def _folds(layer: nn.Module, model: Any) -> bool:
    if not isinstance(layer, Linear) or layer.disable_adapters or layer.merged:
        return False
    base = layer.get_base_layer()
    plain = type(base) is nn.Linear or hasattr(base, "product")  # `product`: our own layers
    return plain and FOLDING.active(base.weight) and base.weight is not model.get_input_embeddings().weight
