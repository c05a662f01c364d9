"""Prompts that several rows of a generation share, computed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

OF_ROWS = ("attention_mask", "position_ids")  # (B, prompt) each
KNOWN = {*OF_ROWS, "past_key_values", "use_cache", "logits_to_keep"}


def compute_shared(model: Any, input_ids: Tensor, inputs: dict[str, Any]) -> bool:
    """Fills the cache of all rows with their prompts but for the last token, where some are the same.

    Args:
        input_ids: (B, prompt) padded on the left.
        inputs: what generation gives the model besides, the cache among it.

    Returns:
        Whether it did, so that the last token alone is left to compute; else nothing changed.
    """
    cache: Any = inputs.get("past_key_values")
    if not (inputs.keys() <= KNOWN and inputs.get("use_cache") and _is_plain(cache)):
        return False
    of_rows = {name: inputs[name] for name in OF_ROWS if inputs.get(name) is not None}
    tensors = [input_ids, *of_rows.values()]
    place = torch.unique(torch.stack(tensors, 1), dim=0, return_inverse=True)[1]  # (B,) of prompts
    places = place.tolist()
    rows = [places.index(prompt) for prompt in range(max(places) + 1)]  # one of each prompt
    if input_ids.shape[1] < 2 or len(rows) == len(places):
        return False
    own = inputs | {name: each[rows, :-1] for name, each in of_rows.items()}
    model(**model.prepare_inputs_for_generation(input_ids[rows, :-1], is_first_iteration=True, **own))
    cache.batch_select_indices(place)
    return True


def _is_plain(cache: Any) -> bool:
    """Whether it is empty, and of keys and values of all tokens in all layers."""
    layers = getattr(cache, "layers", ())
    return bool(layers) and all(type(layer) is DynamicLayer and not layer.is_initialized for layer in layers)
