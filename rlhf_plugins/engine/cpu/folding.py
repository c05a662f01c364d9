"""Adapters folded into the weights of their layers during generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import nn

from rlhf_plugins.engine import FOLDING


@contextmanager
def folded(model: Any) -> Iterator[None]:
    """For the block, LoRA layers compute W + s B A in one product; afterwards W is bit for bit the same as before.

    A step of generation is a few small products per layer, and an adapter adds three: on a CPU they cost more than the
    base. The block holds the layers' weights twice. A layer that is quantized, tied to the embeddings or of less than
    float32 (in which the sum would be rounded) is left alone, as is one whose adapter has a bias (`lora_bias`) or is
    more than an adapter everywhere (aLoRA). The active adapter must not change within the block.
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
    if not all(_is_sum(layer, name) for name in layer.active_adapters if name in layer.lora_A):
        return False
    base = layer.get_base_layer()
    plain = type(base) is nn.Linear or hasattr(base, "product")  # `product`: our own layers
    return plain and FOLDING.active(base.weight) and base.weight is not model.get_input_embeddings().weight


def _is_sum(layer: Linear, name: str) -> bool:
    """Whether an adapter of a layer can be added to its weight and changes nothing else; DoRA's can, with its norms."""
    plain = isinstance(layer.lora_variant.get(name), DoraLinearVariant | None)
    return plain and layer.lora_B[name].bias is None
