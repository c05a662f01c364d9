"""Adapters computed as part of the weights that they stand on, while a model generates. It knows layers, no tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import nn


@contextmanager
def folded(model: Any) -> Iterator[None]:
    """While it lasts, LoRA layers compute W + BA at once; then W is bit for bit what it was.

    A step of generation is a few small products a layer, of which an adapter adds three: on a CPU they cost more than
    the base. The layers' weights are held twice meanwhile. A layer that is quantized, of less than float32 (which would
    round the sum) or tied to the embeddings stays as it is. Nothing but the adapter in use may be worn meanwhile.
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
    plain = type(base) is nn.Linear or hasattr(base, "product")  # as ours has
    if not plain or base.weight.dtype != torch.float32:
        return False
    return base.weight is not model.get_input_embeddings().weight
