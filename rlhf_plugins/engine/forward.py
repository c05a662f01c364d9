"""The forward pass over a branch batch: hidden states of every sequence, or at some places alone.

It knows how to run a decoder over rows that hold several branches; `probing` knows whether a decoder takes them. It
knows no language-model head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_plugins.data.branches import BranchBatch
from rlhf_plugins.engine.attention import NAME, packed_mask


def trunk_of(model: Any) -> Any:
    """The decoder below the language-model head, with its adapters in place, of a plain or PEFT model."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model if hasattr(inner, "base_model") else inner


def sequence_states(trunk: Any, batch: BranchBatch) -> Tensor:
    """Last hidden states of every branch's own sequence, (B, L, width); meaningless where `batch.mask` is False."""
    states = trunk(**model_inputs(trunk, batch)).last_hidden_state.flatten(0, 1)
    return states.index_select(0, batch.index.flatten()).view(*batch.index.shape, -1)


def states_at(trunk: Any, batch: BranchBatch, places: Tensor) -> Tensor:
    """Last hidden states at some places of the flattened rows, (places, width); the last layer works on these alone."""
    with _only(trunk, places):
        states = trunk(**model_inputs(trunk, batch)).last_hidden_state
    return states.flatten(0, 1).index_select(0, places)


def model_inputs(trunk: Any, batch: BranchBatch) -> dict[str, Any]:
    """What the trunk is called with, so that every branch sees its prompt and itself."""
    packed = batch.shared and len(batch.input_ids) == 1 and trunk.config._attn_implementation == NAME
    ids = {
        "input_ids": batch.input_ids,
        "attention_mask": packed_mask(batch) if packed else batch.attention_mask(trunk.dtype),
    }
    if is_causal(trunk):
        return {**ids, "position_ids": batch.position_ids, "use_cache": False}
    if getattr(trunk.config, "type_vocab_size", 1) > 1:  # positions are the encoder's own, which may not start at 0
        ids["token_type_ids"] = (batch.segment > batch.parent).long()
    return ids


# ---- the last layer ------------------------------------------------------------------------------------------
NORMS = ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2")
MLPS = ("mlp", "block_sparse_moe", "feed_forward")


def last_mlp(trunk: Any) -> tuple[nn.Module, nn.Module] | None:
    """The last layer's feed-forward block and the norm before it, where they go by names that are known."""
    layers = decoder_layers(trunk)
    children = dict(layers[-1].named_children()) if layers is not None else {}
    norm, mlp = (next((children[name] for name in names if name in children), None) for names in (NORMS, MLPS))
    return None if norm is None or mlp is None else (norm, mlp)


def decoder_layers(trunk: Any) -> nn.ModuleList | None:
    """The trunk's stack of layers; None where none can be told."""
    count = trunk.config.get_text_config().num_hidden_layers
    return next((m for m in trunk.modules() if isinstance(m, nn.ModuleList) and len(m) == count), None)


@contextmanager
def _only(trunk: Any, places: Tensor) -> Iterator[None]:
    """Within, the last layer's feed-forward block sees these places alone, and adds nothing anywhere else.

    It sees all where `probing` has not tried this, or where gradient checkpointing would compute the layer again after
    the hooks are gone.
    """
    found = last_mlp(trunk) if getattr(trunk, "_trims", False) else None
    if found is None or _checkpoints(trunk):
        yield
        return
    kept = places.unique()
    whole: list[torch.Size] = []

    def pick(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        whole.append(inputs[0].shape)
        return (inputs[0].flatten(0, 1).index_select(0, kept).unsqueeze(0), *inputs[1:])

    def put(_: nn.Module, __: Any, output: Any) -> Any:
        states, *more = output if isinstance(output, tuple) else (output,)
        full = states.new_zeros(whole[-1]).flatten(0, 1).index_copy(0, kept, states[0]).view(whole[-1])
        return (full, *more) if isinstance(output, tuple) else full

    hooks = [found[0].register_forward_pre_hook(pick), found[1].register_forward_hook(put)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _checkpoints(trunk: Any) -> bool:
    """Whether the trunk or its last layer computes its activations again on the way back."""
    layers = decoder_layers(trunk)
    places = (trunk, *([] if layers is None else layers[-1:]))
    return trunk.training and any(getattr(place, "gradient_checkpointing", False) for place in places)


# ---- trials ----------------------------------------------------------------------------------------------------
def probe_ids(trunk: Any, count: int) -> list[int]:
    """Some token ids to try a model on."""
    return [5 + i % max(1, trunk.config.get_text_config().vocab_size - 6) for i in range(count)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and without gradients; the model's mode is as before afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def is_causal(trunk: Any) -> bool:
    """Whether a token sees only what stands before it; found out once by changing the last token, and remembered."""
    if not hasattr(trunk, "_is_causal"):
        ids = torch.tensor([probe_ids(trunk, 8)], device=trunk.device)
        other = ids.clone()
        other[0, -1] = ids[0, 0]
        with evaluating(trunk):
            first, second = (trunk(input_ids=i).last_hidden_state[0, :-1].float() for i in (ids, other))
        quantized = getattr(trunk.config, "quantization_config", None) is not None
        rounding = 5e-2 if quantized else 1e-3  # int8 looks for outliers over all tokens at once
        trunk._is_causal = bool((first - second).abs().max() < rounding * first.abs().max())
    return bool(trunk._is_causal)
