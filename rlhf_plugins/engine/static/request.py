"""What `model.generate` was asked for, as the loop over a static cache takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import EosTokenCriteria, GenerationConfig, MaxLengthCriteria

from rlhf_plugins.engine.sampler_log_probs import Noted
from rlhf_plugins.engine.static.drawing import Drawing, unsupported

if TYPE_CHECKING:
    from rlhf_plugins.engine.static.filling import Prompt, Responses

KNOWN = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep", "synced_gpus", "streamer"}
NEUTRAL = {"repetition_penalty", "encoder_repetition_penalty", "length_penalty", "num_beams"}  # that are 1
OPTIONS = {
    *("max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p", "min_p", "num_return_sequences"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "use_cache", "disable_compile", "transformers_version"),
}


@dataclass(frozen=True)
class Request:
    """Responses to some prompts.

    Args:
        prompts: without padding, one for each row.
        most: tokens of a response.
        drawing: the drawing of the tokens.
        noted: where log-probabilities go.
    """

    prompts: list[Prompt]
    most: int
    drawing: Drawing
    noted: list[Noted]

    def numbers(self, device: torch.device) -> Tensor:
        """One of [0, 1) for each token that may be drawn, (B, most); torch's random state gives them."""
        make = torch.rand if self.drawing.samples else torch.zeros
        return make(len(self.prompts), self.most, dtype=torch.float64, device=device)

    def answered(self, input_ids: Tensor, made: Responses, pad: int) -> Tensor:
        """What `generate` returns, (B, prompt + response) ids; hands log-probabilities to what notes them."""
        behind = torch.arange(made.ids.shape[1], device=input_ids.device) >= made.lengths.unsqueeze(1)
        for one in self.noted:
            one.log_probs = list(made.log_probs.unbind(1))
        return torch.cat([input_ids, made.ids.masked_fill(behind, pad)], 1)


def unsupported_options(config: GenerationConfig) -> str | None:
    """What a configuration asks for and a step does not do; None where it does all."""
    asked = {name: value for name, value in config.to_diff_dict().items() if name not in OPTIONS and value}
    others = sorted(name for name, value in asked.items() if not (value == 1 and name in NEUTRAL))
    return f"it was asked for {', '.join(others)}" if others else None


def requested(
    input_ids: Tensor, processors: Any, criteria: Any, config: GenerationConfig, inputs: dict[str, Any]
) -> Request | str:
    """What is asked for; a string says why that is not supported.

    Args:
        input_ids: (B, prompt).
        processors: the processors of logits.
        criteria: at which generation stops.
        config: the config as generation prepared it.
        inputs: what it gives the model besides, (B, prompt) each where they are tensors.
    """
    if others := sorted(name for name in inputs.keys() - KNOWN if inputs[name] is not None):
        return f"the model is given {', '.join(others)}"
    cache = inputs.get("past_key_values")
    if cache is not None and cache.get_seq_length():
        return "it is to go on from a cache"
    if inputs.get("synced_gpus") or inputs.get("streamer") is not None or not inputs.get("use_cache"):
        return "several processes take each step together, its tokens are shown one by one, or it keeps no cache"
    ends = [one for one in criteria if isinstance(one, EosTokenCriteria)]
    lengths = [one.max_length for one in criteria if isinstance(one, MaxLengthCriteria)]
    noted = [one for one in criteria if isinstance(one, Noted)]
    if len(ends) + len(lengths) + len(noted) < len(criteria) or not lengths or len(noted) > 1:
        return "it stops at more than ends and a length"
    if reason := unsupported(processors):
        return reason
    prompts = _prompts(input_ids, inputs.get("attention_mask"), inputs.get("position_ids"))
    if isinstance(prompts, str):
        return prompts
    drawing = Drawing(
        processors,
        samples=bool(config.do_sample),
        noted=noted[0].temperature if noted else None,
        ends=tuple(sorted({end for one in ends for end in one.eos_token_id.tolist()})),
    )
    return Request(prompts, min(lengths) - input_ids.shape[1], drawing, noted)


def _prompts(ids: Tensor, mask: Tensor | None, positions: Tensor | None) -> list[Prompt] | str:
    """The tokens of each row that its mask lets the others see."""
    seen = torch.ones_like(ids) if mask is None else mask
    counted = seen.cumsum(1) - 1
    if positions is not None and bool(((positions != counted) & seen.bool()).any()):
        return "positions are not counted from the first token"
    rows = zip(ids.tolist(), seen.tolist(), strict=True)
    prompts = [tuple(token for token, given in zip(*row, strict=True) if given) for row in rows]
    return prompts if all(prompts) else "a prompt is empty"
