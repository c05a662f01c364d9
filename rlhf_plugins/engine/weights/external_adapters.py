"""Which adapters of other software open here, by PEFT's configuration of them. It reads no weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NOTES = {  # of who trained it, and where; the values of other software are kept as they are
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "parent_library", "peft_type", "peft_version"),
    *("revision", "runtime_config", "task_type", "megatron_core", "qalora_group_size"),
}
OPENED = {
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "fan_in_fan_out", "use_rslora"),
    *("use_dora", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "lora_bias", "eva_config"),
}
SHARED = "and policies here share the weights of their base"
REASONS = {
    "modules_to_save": f"it trained whole modules beside its matrices, {SHARED}",
    "trainable_token_indices": f"it trained rows of the embeddings beside its matrices, {SHARED}",
    "bias": f"it trained biases of the base, {SHARED}",
    "layer_replication": f"it repeats layers of the base, {SHARED}",
    "alora_invocation_tokens": "it begins at these tokens, which no fast path or trainer here computes",
}
HARMLESS = (True, False, None, "gaussian", "orthogonal", "eva")  # beginnings after which the base is as it was


def unopened(config: Mapping[str, Any]) -> Iterator[str]:
    """Why an adapter with this configuration does not open here; nothing where it does."""
    if config.get("peft_type") != "LORA":
        yield f"is an adapter of the type {config.get('peft_type')}, and only LORA is trained here"
        return
    start = config.get("init_lora_weights")
    if start not in HARMLESS:
        yield f"was trained with `init_lora_weights: {start}`, which changed the weights of its base, {SHARED}"
    if (revision := config.get("revision")) not in (None, "main"):
        yield f"belongs to the revision {revision} of its base, and bases are opened at their newest one"
    for name in sorted(config.keys() - OPENED - NOTES - {"init_lora_weights"}):
        if config[name] and (name, config[name]) != ("bias", "none"):
            yield f"has `{name}: {_short(config[name])}`: {REASONS.get(name, 'it is not computed here')}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
