"""The forward pass over a branch batch: hidden states of every sequence, or of some tokens alone.

It runs a decoder over rows that hold several branches; `probing` finds out whether a decoder allows that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlhf_plugins.data.batches.branches import BranchBatch
from rlhf_plugins.engine import TRIMMED_LAYER
from rlhf_plugins.engine.attention import NAME, packed_mask
from rlhf_plugins.engine.half.trials import precision
from rlhf_plugins.engine.layers import checkpointing, decoder_layers

Found = TypeVar("Found")


def inner_of(model: Any) -> Any:
    """The model of transformers, with its adapters in place, of a plain or PEFT model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def merged(model: Any) -> Any:
    """The model of transformers with its adapters added to its weights, of a plain or PEFT model."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def trunk_of(model: Any) -> Any:
    """The decoder below the language-model head, with its adapters in place, of a plain or PEFT model."""
    inner = inner_of(model)
    return inner.base_model if hasattr(inner, "base_model") else inner


def sequence_states(trunk: Any, batch: BranchBatch) -> Tensor:
    """Last hidden states of every branch's own sequence, (B, L, width); undefined where `batch.mask` is False."""
    states = trunk(**model_inputs(trunk, batch)).last_hidden_state.flatten(0, 1)
    return states.index_select(0, batch.index.flatten()).view(*batch.index.shape, -1)


def states_at(trunk: Any, batch: BranchBatch, places: Tensor) -> Tensor:
    """Last hidden states at some places of the flattened rows, (places, width); places are best on the host.

    The last layer's feed-forward block computes these places alone, if a trial in `probing` allowed it, and unless
    gradient checkpointing would compute the layer a second time, when nothing restricts it to these places.
    """
    if TRIMMED_LAYER.active(trunk) and earlier_result(trunk, TRIMS) and not (trunk.training and checkpointing(trunk)):
        return trimmed_states_at(trunk, batch, places)
    return taken(trunk(**model_inputs(trunk, batch)).last_hidden_state, places)


def taken(states: Tensor, places: Tensor) -> Tensor:
    """(R, N, width) -> those at some places of the flattened rows, (places, width), whatever device these are on."""
    return states.flatten(0, 1).index_select(0, places.to(states.device, non_blocking=True))


def trimmed_states_at(trunk: Any, batch: BranchBatch, places: Tensor) -> Tensor:
    """`states_at`, with the last layer's feed-forward block computed at these places alone; the trunk must have one."""
    inputs = model_inputs(trunk, batch)  # runs the trunk, the first time
    with _trimmed_last_layer(trunk, places):
        states = trunk(**inputs).last_hidden_state
    return taken(states, places)


def model_inputs(trunk: Any, batch: BranchBatch) -> dict[str, Any]:
    """The arguments of the trunk's forward pass, under which every branch attends to its prompt and itself."""
    packed = batch.shared and len(batch.input_ids) == 1 and trunk.config._attn_implementation == NAME
    ids = {
        "input_ids": batch.input_ids,
        "attention_mask": packed_mask(batch) if packed else batch.attention_mask(_attends_in(trunk)),
    }
    if is_causal(trunk):
        return {**ids, "position_ids": batch.position_ids, "use_cache": False}
    if getattr(trunk.config, "type_vocab_size", 1) > 1:  # an encoder numbers positions itself, not always from 0
        ids["token_type_ids"] = (batch.segment > batch.parent).long()
    return ids


def _attends_in(trunk: Any) -> torch.dtype:
    """The precision of its attention: autocast would cast a mask of another in each layer, and autograd keep each."""
    dtype: torch.dtype = trunk.dtype
    half = precision(trunk.device.type)
    return dtype if half is None or dtype == torch.float64 else half


# ---- the last layer ------------------------------------------------------------------------------------------
NORMS = ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2")
FEED_FORWARDS = ("mlp", "block_sparse_moe", "feed_forward")
TRIMS = "trims the last layer"  # the name of a trial


def last_feed_forward(trunk: Any) -> tuple[nn.Module, nn.Module] | None:
    """The norm and the feed-forward block of the last layer; None if their names are unknown."""
    layers = decoder_layers(trunk)
    children = dict(layers[-1].named_children()) if layers is not None else {}
    norm, block = (next((children[n] for n in names if n in children), None) for names in (NORMS, FEED_FORWARDS))
    return None if norm is None or block is None else (norm, block)


@contextmanager
def _trimmed_last_layer(trunk: Any, places: Tensor) -> Iterator[None]:
    """For the block, the last layer's feed-forward block computes these places alone, and adds 0 at all others."""
    from rlhf_plugins.engine.cost import count_skipped

    found = last_feed_forward(trunk)
    assert found is not None
    kept = places.unique().to(trunk.device, non_blocking=True)
    shapes: list[torch.Size] = []

    def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        shapes.append(inputs[0].shape)
        count_skipped(trunk, found[1], inputs[0][..., 0].numel() - len(kept), inputs[0].requires_grad)
        return (inputs[0].flatten(0, 1).index_select(0, kept).unsqueeze(0), *inputs[1:])

    def scatter(_: nn.Module, __: Any, output: Any) -> Any:
        states, *more = output if isinstance(output, tuple) else (output,)
        full = states.new_zeros(shapes[-1]).flatten(0, 1).index_copy(0, kept, states[0]).view(shapes[-1])
        return (full, *more) if isinstance(output, tuple) else full

    hooks = [found[0].register_forward_pre_hook(gather), found[1].register_forward_hook(scatter)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# ---- trials ----------------------------------------------------------------------------------------------------
def trial_result(trunk: Any, what: str, trial: Callable[[], Found]) -> Found:
    """The result of a trial, which runs once per device and precision of the trunk, and is kept on it.

    It costs a process a little, not a training, which may go on in another process.
    """
    from rlhf_plugins.engine.cost import uncounted

    results: dict[Any, Any] = vars(trunk).setdefault("_rlhf_trials", {})
    key = _trial(trunk, what)
    if key not in results:
        with uncounted():
            results[key] = trial()
    found: Found = results[key]
    return found


def earlier_result(trunk: Any, what: str) -> Any:
    """The result of a trial that ran; None if it did not run."""
    return vars(trunk).get("_rlhf_trials", {}).get(_trial(trunk, what))


def _trial(trunk: Any, what: str) -> tuple[str, str, torch.dtype]:
    return what, trunk.device.type, trunk.dtype


def probe_ids(trunk: Any, count: int) -> list[int]:
    """Token ids for a trial, not all alike; the first five, which often are marks, where there are few others."""
    size = trunk.config.get_text_config().vocab_size
    return [5 + i % (size - 6) if size > 7 else i % max(1, size - 1) for i in range(count)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """For the block, no dropout and no gradients; afterwards the model is in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def is_causal(trunk: Any) -> bool:
    """Whether a token attends to earlier tokens only, according to a trial that changes the last token."""
    return trial_result(trunk, "is causal", lambda: _is_causal(trunk))


def _is_causal(trunk: Any) -> bool:
    ids = torch.tensor([probe_ids(trunk, 8)], device=trunk.device)
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    with evaluating(trunk):
        first, second = (trunk(input_ids=i).last_hidden_state[0, :-1].float() for i in (ids, other))
    quantized = getattr(trunk.config, "quantization_config", None) is not None
    rounding = 5e-2 if quantized else 1e-3  # int8 looks for outliers over all tokens at once
    return bool((first - second).abs().max() < rounding * first.abs().max())
