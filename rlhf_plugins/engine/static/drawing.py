"""How a step draws its tokens: plain functions of the logits, and nothing that waits for the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

PURE = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)  # read no tokens, keep no state


@dataclass(frozen=True)
class Drawing:
    """What happens between logits and tokens.

    Args:
        processors: the processors of transformers' classes `PURE`, in the order in which they change the logits.
        samples: whether tokens are drawn at random; else the likeliest are taken.
        noted: the temperature of the log-probabilities that are noted; None where none are.
        ends: tokens that end a row.
    """

    processors: LogitsProcessorList
    samples: bool = True
    noted: float | None = None
    ends: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """The same for drawings that do the same."""
        steps = [(type(one).__name__, sorted(vars(one).items())) for one in self.processors]
        return repr((steps, self.samples, self.noted, self.ends))

    def tokens(self, logits: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """A token of each row, and whether the row has finite probabilities, (B,) each.

        Args:
            logits: (B, vocabulary) in float32.
            numbers: (B, 1) of [0, 1), in float64.
        """
        scores = self.processors(torch.empty(0, dtype=torch.long, device=logits.device), logits)
        if self.samples:
            return tokens_at(scores, numbers)
        return scores.argmax(-1), torch.ones_like(numbers.squeeze(1), dtype=torch.bool)

    def log_probs(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Nats of tokens under the logits at the temperature, (B,); zeros where none are noted."""
        if self.noted is None:
            return logits.new_zeros(len(logits))
        scaled = logits / self.noted
        return scaled.gather(1, tokens.unsqueeze(1)).squeeze(1) - scaled.logsumexp(1)


def unsupported(processors: Any) -> str | None:
    """Why a list of logits processors cannot be part of a step; None where it can."""
    others = sorted({type(one).__name__ for one in processors if type(one) not in PURE})
    return f"it was asked for {', '.join(others)}" if others else None


def tokens_at(scores: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The token of each row at a number of [0, 1) of its distribution function, and whether the row has one, (B,) each.

    Args:
        scores: (B, vocabulary), of which a softmax makes the distribution.
        numbers: (B, 1), of float64.
    """
    sums = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
    tokens = torch.searchsorted(sums, numbers * sums[:, -1:], right=True).squeeze(1).clamp_(max=sums.shape[1] - 1)
    return tokens, sums[:, -1].isfinite()
