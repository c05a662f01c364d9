"""A loop of generation that computes a prompt once, never copies the cache, and draws one number a token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from rlhf_plugins.engine.cpu.shared_prompts import compute_shared
from rlhf_plugins.engine.static.drawing import tokens_at
from rlhf_plugins.errors import RunError

NOT_FINITE = "the probabilities of the next token are not finite: the policy's weights are no longer finite"


def decode(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **inputs: Any,
) -> Tensor:
    """Returns ids (B, prompt + response) as transformers' own loop does, but draws other random numbers.

    `generate(custom_generate=decode)` calls it, and prepares all its arguments.
    """
    inputs = {name: given for name, given in inputs.items() if name not in ("synced_gpus", "streamer")}
    new_tokens = 1 if compute_shared(model, input_ids, inputs) else None  # that the model has not computed; None: all
    _preallocate(inputs.get("past_key_values"), stopping_criteria.max_length)
    unfinished = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    while unfinished.any():
        given = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=new_tokens, is_first_iteration=new_tokens is None, **inputs
        )
        output = model(**given, return_dict=True)
        inputs = model._update_model_kwargs_for_generation(output, inputs)
        new_tokens = 1 if inputs.get("use_cache") else None
        scores = logits_processor(input_ids, output.logits[:, -1].float())
        token = draw_tokens(scores) if generation_config.do_sample else scores.argmax(-1)
        if generation_config.pad_token_id is not None:
            token = token.where(unfinished, generation_config.pad_token_id)
        input_ids = torch.cat([input_ids, token.unsqueeze(1)], 1)
        unfinished &= ~stopping_criteria(input_ids, None)
    return input_ids


def draw_tokens(scores: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One token from each softmax(scores), (B, vocabulary) -> (B,), by inverting its distribution function.

    Raises:
        RunError: a score is NaN, or all are minus infinity.
    """
    numbers = torch.rand(len(scores), 1, dtype=torch.float64, device=scores.device, generator=generator)
    tokens, finite = tokens_at(scores, numbers)
    if not bool(finite.all()):
        raise RunError(NOT_FINITE)
    return tokens


class PreallocatedLayer(DynamicLayer):
    """Keys and values (B, heads, tokens, width) in memory allocated for all tokens, which transformers copies."""

    keys: Tensor
    values: Tensor
    capacity = 0  # tokens
    _memory: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Adds tokens, and returns all keys and values so far."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if not self._memory:
            self._memory = tuple(_allocated(new, max(end, self.capacity)) for new in (key_states, value_states))
            for memory, known in zip(self._memory, (self.keys, self.values), strict=True):
                if start:
                    memory[..., :start, :] = known
        for memory, new in zip(self._memory, (key_states, value_states), strict=True):
            memory[..., start:end, :] = new
        self.keys, self.values = (memory[..., :end, :] for memory in self._memory)
        return self.keys, self.values


def _allocated(like: Tensor, tokens: int) -> Tensor:
    return like.new_empty(*like.shape[:-2], tokens, like.shape[-1])


def _preallocate(cache: Any, tokens: int | None) -> None:
    """Gives the layers of a cache that would be copied at every token memory for all tokens."""
    for layer in getattr(cache, "layers", ()):
        if type(layer) is DynamicLayer and tokens:
            layer.__class__ = PreallocatedLayer
            layer.capacity = tokens
