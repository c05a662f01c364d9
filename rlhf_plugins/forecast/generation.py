"""Generation on fake tensors under a meter: over a static cache as on a GPU, or by transformers' loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList

from rlhf_plugins.contract.workload import PROMPT_TOKENS, Work
from rlhf_plugins.data.batches.branches import PromptBranches
from rlhf_plugins.engine import STATIC_CACHE
from rlhf_plugins.engine.decoding import AT_ONCE
from rlhf_plugins.engine.forward import inner_of
from rlhf_plugins.engine.static.drawing import Drawing
from rlhf_plugins.engine.static.filling import TOKENS, our_attention, shapes
from rlhf_plugins.engine.static.sizes import capacity_for, slots_for
from rlhf_plugins.engine.static.slots import Slots
from rlhf_plugins.engine.static.trial import obstacles
from rlhf_plugins.forecast.fakes import DEVICE
from rlhf_plugins.forecast.meter import Meter, allocating

CACHE, GRAPH = "KV cache", "CUDA graph"


def slots_on_gpu(model: Any) -> bool:
    """Whether a model generates over a static cache on a GPU, where its trial passes."""
    inner = inner_of(model)
    return STATIC_CACHE.active(model) and next(obstacles(inner), None) is None


def over_slots(model: Any, work: Work, meter: Meter) -> None:
    """A step of all slots, and the pass over the prompts, beside which a graph holds what a step allocates."""
    inner = inner_of(model)
    prompt = PROMPT_TOKENS if work.prompt_tokens is None else max(1, work.prompt_tokens)
    capacity = capacity_for(prompt + work.response_tokens)
    count = slots_for(min(work.prompts * work.responses, AT_ONCE), capacity, work.tokens)
    meter.begin("step")
    with our_attention(inner.config):
        slots = Slots(inner, shapes(inner), count, capacity, Drawing(LogitsProcessorList(), noted=1.0))
        for layer in slots.cache.layers:
            meter.rename(layer.keys, CACHE)
            meter.rename(layer.values, CACHE)
        before = meter.now
        slots.step()
        with allocating(GRAPH):
            held = torch.empty(sum(meter.peaks["step"].values()) - before, dtype=torch.uint8, device=DEVICE)
        meter.begin("prompts")
        rows = max(1, min(count, work.prompts, TOKENS // prompt))
        ids = torch.zeros(rows, prompt, dtype=torch.long, device=DEVICE)
        places = torch.arange(rows, device=DEVICE)
        inner(input_ids=ids, past_key_values=slots.cache.of_prompts(places, places), use_cache=True, logits_to_keep=1)
        del held


def transformers_loop(model: Any, groups: Sequence[PromptBranches], meter: Meter) -> None:
    """The forward pass over the prompts, and the last step, with the cache of transformers."""
    rows = sum(len(group.branches) for group in groups)
    prompt, response = len(groups[0].prompt), len(groups[0].branches[0])
    ids = torch.zeros(rows, prompt, dtype=torch.long, device=DEVICE)
    cache = _Cache(config=model.config)
    output = model(
        input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True, logits_to_keep=1
    )
    _drawn(output.logits[:, -1])
    del output
    meter.begin("cache grows")
    with allocating(CACHE):
        for layer in cache.layers:
            _fill(layer, prompt + response - 1)
    meter.begin("last step")
    seen = torch.ones(rows, prompt + response, dtype=torch.long, device=DEVICE)
    step = model(
        input_ids=ids[:, :1],
        attention_mask=seen,
        position_ids=ids[:, :1],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    _drawn(step.logits[:, -1])


class _Cache(DynamicCache):
    """The cache of transformers, whose keys and values are counted as such."""

    def update(self, *given: Any, **named: Any) -> Any:
        """Adds keys and values of a layer."""
        with allocating(CACHE):
            return super().update(*given, **named)


def _fill(layer: Any, length: int) -> None:
    """Makes a layer's cache as long as after so many tokens; one with a sliding window keeps the last of them."""
    window = getattr(layer, "sliding_window", None)
    if window is not None:
        layer.cumulative_length = length
    kept = length if window is None else min(length, window - 1)
    for name in ("keys", "values"):
        states = getattr(layer, name)
        setattr(layer, name, states.new_empty(*states.shape[:2], kept, states.shape[3]))


def _drawn(logits: Tensor) -> None:
    """Draws a token as generation does."""
    scaled = logits.float() / 1.0
    torch.multinomial(scaled.softmax(-1), 1)
