"""The loop that generates on a CPU: it copies no cache, and draws one number a token. It knows no prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer
from transformers.generation import GenerationMode

from rlhf_plugins.errors import RunError


@contextmanager
def leanly(model: Any) -> Iterator[None]:
    """While it lasts, `model.generate` runs `decode` where it samples or decodes greedily on a CPU."""
    own = model.generate

    def generate(*args: Any, generation_config: GenerationConfig, **options: Any) -> Any:
        known = model.device.type == "cpu" and _known(generation_config)
        options |= {"custom_generate": decode} if known else {}
        return own(*args, generation_config=generation_config, **options)

    model.generate = generate
    try:
        yield
    finally:
        del model.generate


def _known(config: GenerationConfig) -> bool:
    simple = config.get_generation_mode() in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH)
    return simple and not config.prefill_chunk_size and not config.return_dict_in_generate


def decode(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **inputs: Any,
) -> Tensor:
    """What transformers' own loop gives, (B, prompt + response) ids, from other random numbers.

    It is called by `generate(custom_generate=decode)`, which makes all its arguments.
    """
    inputs = {name: given for name, given in inputs.items() if name not in ("synced_gpus", "streamer")}
    _make_room(inputs.get("past_key_values"), stopping_criteria.max_length)
    going = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    fresh = None  # tokens that the model has not seen: at first all
    while going.any():
        given = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=fresh, is_first_iteration=fresh is None, **inputs
        )
        output = model(**given, return_dict=True)
        inputs = model._update_model_kwargs_for_generation(output, inputs)
        fresh = 1 if inputs.get("use_cache") else None
        scores = logits_processor(input_ids, output.logits[:, -1].float())
        token = draw(scores) if generation_config.do_sample else scores.argmax(-1)
        if generation_config.pad_token_id is not None:
            token = token.where(going, generation_config.pad_token_id)
        input_ids = torch.cat([input_ids, token.unsqueeze(1)], 1)
        going &= ~stopping_criteria(input_ids, None)
    return input_ids


def draw(scores: Tensor) -> Tensor:
    """One token of each softmax(scores), (B, vocabulary) -> (B,): where its sum first passes a uniform number.

    Raises:
        RunError: a score is NaN, or all are minus infinity.
    """
    sums = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
    if not bool(sums[:, -1].isfinite().all()):
        raise RunError("the probabilities of the next token are not numbers: the policy's weights are no longer finite")
    at = torch.rand(len(sums), 1, dtype=torch.float64, device=sums.device) * sums[:, -1:]
    return torch.searchsorted(sums, at, right=True).squeeze(1).clamp_(max=sums.shape[1] - 1)


class Roomy(DynamicLayer):
    """Keys and values (B, heads, tokens, width) in memory for all tokens to come, where transformers copies them."""

    capacity = 0  # tokens
    _room: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Adds tokens, and returns all keys and values so far."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = tuple(_empty(new, max(end, self.capacity)) for new in (key_states, value_states))
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., start:end, :] = new
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        return self.keys, self.values


def _empty(like: Tensor, tokens: int) -> Tensor:
    return like.new_empty(*like.shape[:-2], tokens, like.shape[-1])


def _make_room(cache: Any, tokens: int | None) -> None:
    """Gives the layers that would grow by copies room for so many tokens."""
    for layer in getattr(cache, "layers", ()):
        if type(layer) is DynamicLayer and not layer.is_initialized and tokens:
            layer.__class__ = Roomy
            layer.capacity = tokens
