"""The log-probabilities of tokens under what samples them, noted as they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from rlhf_plugins.engine.forward import inner_of


class Noted(StoppingCriteria):
    """Hears the model's logits and the token that was drawn from them; it ends no response."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self._logits = torch.zeros(0, 0)  # (B, vocabulary) of the next token
        self.log_probs: list[Tensor] = []  # (B,) of each token so far

    def hear(self, _: Any, __: Any, output: Any) -> None:
        self._logits = output.logits[:, -1]

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        logits, token = self._logits.float() / self.temperature, input_ids[:, -1:]
        self.log_probs.append(logits.gather(1, token).squeeze(1) - logits.logsumexp(1))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextmanager
def noted_log_probs(model: Any, temperature: float | None) -> Iterator[list[list[float]]]:
    """For the block, what `model.generate` samples is noted: a list of nats for each row, in the order of the calls.

    They are of the logits at the temperature, before `top_p` and the like, and go on behind a response's end. Each
    step must be one pass and draw one token: no beams, no guidance. Hooks that change the logits and were there before
    are heard. A call that fails leaves nothing.

    Args:
        model: a causal language model.
        temperature: divides the logits; None notes nothing.
    """
    if temperature is None:
        yield []
        return
    inner = inner_of(model)
    own, before, found = model.generate, vars(model).get("generate"), list[list[float]]()

    def generate(*args: Any, stopping_criteria: Any = None, **options: Any) -> Any:
        noted = Noted(temperature)
        hook = inner.register_forward_hook(noted.hear)
        try:
            made = own(*args, stopping_criteria=StoppingCriteriaList([*(stopping_criteria or ()), noted]), **options)
        finally:
            hook.remove()
        found.extend(torch.stack(noted.log_probs, 1).tolist())
        return made

    model.generate = generate
    try:
        yield found
    finally:
        del model.generate
        if before is not None:
            model.generate = before
