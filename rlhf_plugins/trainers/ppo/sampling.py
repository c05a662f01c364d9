"""Options of generation: those that sample another distribution than the policy's, and those no training takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_plugins.errors import nearest

logger = logging.getLogger(__name__)
OPTIONS = ("top_p", "top_k", "min_p", "repetition_penalty", "vllm_structured_outputs_regex")  # options of GRPOConfig
KWARGS = "generation_kwargs"
HARMLESS = frozenset(  # generation_kwargs that are allowed: ends, and what leaves the sampled distribution as it is
    {
        *("bos_token_id", "eos_token_id", "pad_token_id", "stop_token_ids", "max_time", "max_tokens"),
        *("max_length", "max_new_tokens", "temperature", "renormalize_logits", "remove_invalid_values", "seed"),
        *("use_cache", "cache_implementation", "cache_config", "prefill_chunk_size", "disable_compile"),
        *("compile_config", "logprobs", "detokenize", "skip_special_tokens"),
    }
)
NEUTRAL: Mapping[str, Any] = {  # where they change nothing; other options where they are 0
    **dict.fromkeys(("top_p", "typical_p", "guidance_scale", "num_beams", "num_return_sequences", "n"), 1),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "length_penalty"), 1),
    "do_sample": True,
}


def reshaping(given: Mapping[str, Any]) -> list[str]:
    """The options under which tokens are drawn from another distribution than the policy's at the temperature.

    Args:
        given: options of GRPOConfig; those that are missing have their defaults.
    """
    asked = {name: given.get(name) for name in OPTIONS} | dict(given.get(KWARGS) or {})
    return [
        name
        for name, value in asked.items()
        if name not in HARMLESS and value not in (None, [], {}) and value != NEUTRAL.get(name, 0)
    ]


def warn(reshaped: Sequence[str]) -> None:
    """Says once that what samples is not what learns."""
    if reshaped:
        logger.warning(
            "%s: tokens are drawn from another distribution than the policy's, whose log-probabilities are learned "
            "from; sampling/kl is not logged",
            ", ".join(reshaped),
        )


def refusal(given: Mapping[str, Any], temperature: float, compares: bool) -> str | None:
    """Why no online training can generate with these options of GRPOConfig; None where it can.

    Args:
        given: the options.
        temperature: the temperature of the training.
        compares: whether the advantage compares the responses to a prompt.
    """
    asked = dict(given.get(KWARGS) or {})
    if reason := _no_samples(asked, compares):
        return f"{KWARGS}: {reason}"
    if (other := asked.get("temperature", temperature)) != temperature:
        return (
            f"{KWARGS}: a temperature of {other} would sample from another policy than the one that learns, at "
            f"{temperature}; write it as temperature"
        )
    tokens = "stop_token_ids" if given.get("use_vllm") else "eos_token_id"
    if stop := next((name for name in ("stop_strings", "stop") if asked.get(name)), None):
        return (
            f"{KWARGS}: {stop} ends responses with a text, but a training must know the token that ends a response; "
            f"name such tokens as {tokens}"
        )
    return None if given.get("use_vllm") else _unknown(asked)


def _no_samples(asked: Mapping[str, Any], compares: bool) -> str:
    """Why these `generation_kwargs` give no response of the policy's to each row of a rollout; empty where they do."""
    if (asked.get("num_beams") or 1) != 1:
        return "num_beams searches for likely responses, and a training learns from samples: leave it out"
    if several := next((name for name in ("num_return_sequences", "n") if (asked.get(name) or 1) != 1), ""):
        return f"{several}: a rollout has one response in each of its rows: write num_generations for more to a prompt"
    if asked.get("do_sample") is False and compares:
        return "do_sample: false makes all responses to a prompt alike, and the advantage compares them: leave it out"
    return ""


def _unknown(asked: Mapping[str, Any]) -> str | None:
    """What transformers would keep without a word, and not read."""
    from transformers import GenerationConfig

    known = [name for name in vars(GenerationConfig()) if not name.startswith("_")]
    unknown = next((name for name in asked if name not in known), None)
    return f"{KWARGS}: unknown option {unknown!r} {nearest(unknown, known)}" if unknown else None
