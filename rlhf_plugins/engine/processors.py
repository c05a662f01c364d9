"""What becomes of logits before a token is drawn from them, as processors of transformers and in their order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rlhf_plugins.contract.sampling import SamplingOptions


class RepetitionPenalty(LogitsProcessor):
    """Divides positive logits of the tokens in the text so far by the penalty, and multiplies negative ones.

    The prompt counts, as with transformers (Keskar et al. 2019, "CTRL", section 4.1, counts what was generated, and
    divides every logit). The padding before it does not, so that a response does not depend on its batch.

    Args:
        penalty: above 0; above 1 it makes repetitions less likely.
        pad: the token of padding, on the left of a prompt; None where there is none.
    """

    def __init__(self, penalty: float, pad: int | None = None) -> None:
        self.penalty, self.pad = penalty, pad

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """New logits, (B, vocabulary), of a text (B, tokens) and its logits."""
        known = input_ids < scores.shape[-1]  # embeddings may be more than logits
        text = known if self.pad is None else known & ((input_ids != self.pad).cumsum(1) > 0)
        counts = torch.zeros_like(scores).scatter_add_(1, input_ids.where(known, 0), text.to(scores.dtype))
        return scores.where(counts == 0, torch.where(scores < 0, scores * self.penalty, scores / self.penalty))


def penalties(options: SamplingOptions, pad: int | None = None) -> LogitsProcessorList:
    """The processors that apply to greedy decoding too."""
    penalty = options.get("repetition_penalty", 1.0)
    return LogitsProcessorList([RepetitionPenalty(penalty, pad)] if penalty != 1 else [])


def warped(ids: Tensor, logits: Tensor, temperature: float, options: SamplingOptions) -> Tensor:
    """Logits (B, vocabulary), of whose softmax a token is drawn, after texts (B, tokens) without padding."""
    steps = penalties(options)
    if temperature not in (0, 1):
        steps.append(TemperatureLogitsWarper(float(temperature)))
    if top_k := options.get("top_k"):
        steps.append(TopKLogitsWarper(top_k))
    if (top_p := options.get("top_p", 1.0)) < 1:
        steps.append(TopPLogitsWarper(top_p))
    if min_p := options.get("min_p"):
        steps.append(MinPLogitsWarper(min_p))
    found: Tensor = steps(ids, logits)
    return found
