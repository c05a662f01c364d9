"""Rows in slots: a prompt is computed once, slots whose row has ended take the next, and the host looks rarely."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from rlhf_plugins.engine.attention import NAME
from rlhf_plugins.engine.forward import probe_ids, trunk_of
from rlhf_plugins.engine.static.cache import ShapeCache
from rlhf_plugins.engine.static.slots import Slots
from rlhf_plugins.engine.token_budget import in_batches, tokens_at_once

TOKENS = 4096  # of prompts that are computed in one pass, at most
STEPS = 8  # between two looks of the host at which rows have ended

Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Responses:
    """The responses of B rows, padded to the longest.

    Args:
        ids: (B, T); undefined behind a response's end.
        log_probs: (B, T) in nats; as above.
        lengths: (B,).
    """

    ids: Tensor
    log_probs: Tensor
    lengths: Tensor


@contextmanager
def our_attention(config: Any) -> Iterator[None]:
    """For the block, a model's attention is ours, which is transformers' SDPA where no mask brings another."""
    configs = {id(one): one for one in (config, config.get_text_config())}.values()
    before = [one._attn_implementation for one in configs]
    for one in configs:
        one._attn_implementation = NAME
    try:
        yield
    finally:
        for one, name in zip(configs, before, strict=True):
            one._attn_implementation = name


def compute(model: Any, prompts: Sequence[Sequence[int]], cache: Cache) -> None:
    """A pass over whole prompts, whose keys and values go into a cache; behind the end of a prompt they are of nothing.

    No token attends to those behind it, so that no mask is needed.
    """
    width, device = max(map(len, prompts)), model.device
    ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=device)
    torch.clear_autocast_cache()  # of weights that have changed since
    model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)


def shapes(model: Any) -> ShapeCache:
    """Keys and values of two tokens."""
    cache = ShapeCache(config=model.config)
    compute(model, [probe_ids(trunk_of(model), 2)], cache)
    return cache


class Filler:
    """Generates for any number of rows with the slots that there are.

    Args:
        model: a causal language model.
        slots: of it.
        step: goes on with all slots that run, as `slots.step` does.
    """

    def __init__(self, model: Any, slots: Slots, step: Callable[[], Any]) -> None:
        self._model, self._slots, self._step = model, slots, step
        self._held: list[Prompt | None] = [None] * slots.count  # whose keys and values each slot has

    def respond(self, prompts: Sequence[Prompt], numbers: Tensor) -> Responses:
        """A response to each prompt.

        Args:
            prompts: the prompts of one token at least.
            numbers: (B, tokens) of [0, 1): one for each token that may be drawn.

        Raises:
            ArithmeticError: the probabilities of a token are not finite.
        """
        most = numbers.shape[1]
        ids, lengths = (
            torch.zeros(len(prompts), *shape, dtype=torch.long, device=numbers.device) for shape in ((most,), ())
        )
        nats = torch.zeros(ids.shape, device=numbers.device)
        waiting, rows = deque(range(len(prompts))), dict[int, int]()  # the row of each slot that has one
        self._slots.stop()
        while True:
            running, broken = self._slots.look()
            if broken:
                raise ArithmeticError
            if ended := [slot for slot in rows if not running[slot]]:
                at = torch.tensor([rows.pop(slot) for slot in ended], device=ids.device)
                ids[at], nats[at], lengths[at] = self._slots.responses(ended, most)
            free = [slot for slot in range(self._slots.count) if slot not in rows]
            new = {slot: waiting.popleft() for slot in free[: len(waiting)]}
            self._fill({slot: prompts[row] for slot, row in new.items()}, numbers[list(new.values())])
            rows |= new
            if not rows:
                longest = int(lengths.max())
                return Responses(ids[:, :longest], nats[:, :longest], lengths)
            for _ in range(STEPS):
                self._step()

    def _fill(self, new: dict[int, Prompt], numbers: Tensor) -> None:
        if not new:
            return
        known = {prompt: slot for slot, prompt in enumerate(self._held) if prompt is not None}
        copied = {slot: known[prompt] for slot, prompt in new.items() if known.get(prompt, slot) != slot}
        if copied:
            longest = max(len(new[slot]) for slot in copied) - 1
            self._slots.cache.copy(self._tensor(list(copied)), self._tensor(list(copied.values())), longest)
        self._compute({slot: prompt for slot, prompt in new.items() if prompt not in known})
        for slot, prompt in new.items():
            self._held[slot] = prompt
        self._slots.start(list(new), [one[-1] for one in new.values()], [len(one) for one in new.values()], numbers)

    def _compute(self, new: dict[int, Prompt]) -> None:
        """Fills slots with their prompts but for the last token, which is the input of the first step."""
        prompts = sorted({prompt for prompt in new.values() if len(prompt) > 1}, key=len)
        lengths = [len(prompt) - 1 for prompt in prompts]
        for part in in_batches(lengths, len(prompts), min(tokens_at_once(), TOKENS)):
            place = {prompt: row for row, prompt in enumerate(prompts[part])}
            slots = [slot for slot, prompt in new.items() if prompt in place]
            rows = self._tensor([place[new[slot]] for slot in slots])
            cache = self._slots.cache.of_prompts(self._tensor(slots), rows)
            compute(self._model, [prompt[:-1] for prompt in place], cache)

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._model.device)
