"""The loop over a static cache as `model.generate` calls it; what it holds is free once nothing holds the loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from rlhf_plugins.engine.cpu.decoding import NOT_FINITE
from rlhf_plugins.engine.out_of_memory import attempted, release_memory, warn
from rlhf_plugins.engine.static.filling import Filler, Responses, our_attention, shapes
from rlhf_plugins.engine.static.graph import recorded
from rlhf_plugins.engine.static.request import Request, requested
from rlhf_plugins.engine.static.sizes import capacity_for, slots_for
from rlhf_plugins.engine.static.slots import Slots
from rlhf_plugins.engine.static.trial import obstacle_of, say
from rlhf_plugins.engine.token_budget import cached_at_once, note_most
from rlhf_plugins.errors import RunError

FEWER = "with keys and values of %d tokens at once: the same responses are generated again for %d rows at a time"


class StaticLoop:
    """Generates over a static cache, which it keeps for calls of the same size.

    Args:
        rows: at once, at most.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._key: Any = None
        self._filler: Filler | None = None

    def generate(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        **inputs: Any,
    ) -> Tensor:
        """Returns ids (B, prompt + response) as transformers' own loop does, but draws other random numbers.

        `generate(custom_generate=loop.generate)` calls it, and prepares all its arguments. Where it cannot help it
        calls transformers' loop, and one line of the log says so.

        Raises:
            RunError: the probabilities of a token are not finite.
        """
        request = requested(input_ids, logits_processor, stopping_criteria, generation_config, inputs)
        reason = request if isinstance(request, str) else obstacle_of(model)
        if reason is not None or isinstance(request, str):
            say(model, str(reason))
            theirs: Tensor = model._sample(
                input_ids,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                generation_config=generation_config,
                **inputs,
            )
            return theirs
        pad = generation_config.pad_token_id
        try:
            with our_attention(model.config):
                made = self._respond(model, request)
        except ArithmeticError as error:
            raise RunError(NOT_FINITE) from error
        return request.answered(input_ids, made, 0 if pad is None else pad)

    def _respond(self, model: Any, request: Request) -> Responses:
        """Responses, for fewer rows at a time where memory runs out: each row keeps its random numbers."""
        numbers = request.numbers(model.device)
        capacity = capacity_for(max(map(len, request.prompts)) + request.most)
        while True:
            count = slots_for(min(len(request.prompts), self._rows), capacity, cached_at_once(model))
            found, reason = attempted(self._attempt, model, request, (count, capacity), numbers)
            if found is not None:
                return found
            self._filler = None
            release_memory()
            if count == 1:
                raise torch.OutOfMemoryError(reason)
            note_most(model, count // 2 * capacity)
            warn(FEWER, count * capacity, count // 2)

    def _attempt(self, model: Any, request: Request, size: tuple[int, int], numbers: Tensor) -> Responses:
        key = id(model), size, request.drawing.key
        if self._filler is None or key != self._key:
            self._filler = None  # its memory is free before there is more
            slots = Slots(model, shapes(model), *size, request.drawing)
            self._key, self._filler = key, Filler(model, slots, recorded(model, slots))
        return self._filler.respond(request.prompts, numbers)
