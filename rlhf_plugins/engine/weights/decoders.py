"""Whether a base is a decoder, which can answer prompts, by its configuration alone."""

from __future__ import annotations

from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from rlhf_plugins.errors import RunError

FOR_REWARDS = "a policy needs a decoder; as an encoder it can be the base of a reward model (`base:` of that stage)"


def refuse_encoder(path: str, config: Any) -> None:
    """Raises RunError where a model reads in both directions, so that it cannot write a response.

    Args:
        path: the path of the base.
        config: transformers' configuration of it; one of a model with code of its own is taken as a decoder's.
    """
    if getattr(config, "auto_map", None) or getattr(config, "is_decoder", False):
        return
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise RunError(
            f"base {path}: is an encoder ({config.model_type}), which cannot write a response: {FOR_REWARDS}"
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise RunError(f"base {path}: transformers has no language model of the type {config.model_type}")
