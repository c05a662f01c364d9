"""A step of generation: one token of every slot, by operations on tensors that stay where they are.

A step reads nothing from the host and leaves nothing with it, so that it can be recorded once and played again. The
random number of a token is that of its row and its place in the response: neither the slot nor the other rows matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.engine.layers import attention_windows
from rlhf_plugins.engine.static.cache import ShapeCache, SlotCache
from rlhf_plugins.engine.static.drawing import Drawing


class Slots:
    """The rows that are generated now, and the step that goes on with them.

    Args:
        model: a causal language model.
        like: a cache of the model with some tokens in it, for the shapes.
        count: slots.
        capacity: tokens of a slot, of a prompt and its response.
        drawing: the drawing of the tokens.
    """

    def __init__(self, model: Any, like: ShapeCache, count: int, capacity: int, drawing: Drawing) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=model.device)

        self.count, self.capacity, self.drawing = count, capacity, drawing
        self._model = model
        self._token, self._place = zeros(count), zeros(count)  # the last token of each row, whose keys come next
        self._drawn, self._most = zeros(count), zeros()  # tokens of each response so far, and at most
        self._runs, self._broken = zeros(count, dtype=torch.bool), zeros(dtype=torch.bool)
        self._numbers = zeros(count, capacity, dtype=torch.float64)
        self._ids, self._nats = zeros(count, capacity), zeros(count, capacity, dtype=torch.float32)
        self._ends = torch.tensor(drawing.ends, dtype=torch.long, device=model.device)
        self.cache = SlotCache(like, count, capacity, self._place, attention_windows(model.config))

    def step(self) -> Tensor:
        """Draws a token of each row that runs; returns the logits, (slots, vocabulary) in float32."""
        torch.clear_autocast_cache()  # a record holds the conversion of weights, and nothing else uses its result
        output = self._model(
            input_ids=self._token.unsqueeze(1),
            attention_mask=self.cache.mask(),
            position_ids=self._place.unsqueeze(1),
            past_key_values=self.cache,
            use_cache=True,
            return_dict=True,
        )
        torch.clear_autocast_cache()
        logits: Tensor = output.logits[:, -1].float()
        at = self._drawn.clamp(max=self.capacity - 1).unsqueeze(1)
        token, finite = self.drawing.tokens(logits, self._numbers.gather(1, at))
        for kept, new in ((self._ids, token), (self._nats, self.drawing.log_probs(logits, token))):
            kept.scatter_(1, at, torch.where(self._runs, new, kept.gather(1, at).squeeze(1)).unsqueeze(1))
        self._broken |= (self._runs & ~finite).any()
        self._token.copy_(torch.where(self._runs, token, self._token))
        self._drawn += self._runs
        self._runs &= (token.unsqueeze(1) != self._ends).all(1) & (self._drawn < self._most)
        self._place += self._runs
        return logits

    def start(self, slots: Sequence[int], last: Sequence[int], prompts: Sequence[int], numbers: Tensor) -> None:
        """Gives slots new rows, whose prompts but for the last token are in the cache.

        Args:
            slots: the slots that get one.
            last: token of each prompt.
            prompts: the length of each.
            numbers: (slots, tokens) of [0, 1), a number for each token of a response.
        """
        at, token, length = torch.tensor([slots, last, prompts], device=self._token.device)
        self._most.fill_(numbers.shape[1])
        self._token[at], self._place[at] = token, length - 1
        self._drawn[at] = 0
        self._runs[at] = True
        self._numbers[at, : numbers.shape[1]] = numbers

    def look(self) -> tuple[list[bool], bool]:
        """Which slots still run, and whether any row's probabilities were not finite; it waits for the device."""
        *running, broken = torch.cat([self._runs, self._broken.view(1)]).tolist()
        return running, broken

    def responses(self, slots: Sequence[int], most: int) -> tuple[Tensor, Tensor, Tensor]:
        """The ids and log-probabilities of the responses in n slots, (n, most) each, and the lengths, (n,)."""
        at = torch.tensor(slots, dtype=torch.long, device=self._token.device)
        return self._ids[at, :most], self._nats[at, :most], self._drawn[at]

    def stop(self) -> None:
        """Ends all rows."""
        self._runs.zero_()
        self._broken.zero_()
