"""The configuration of a base, of one with fewer layers too. Shapes of well-known models need no download."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import transformers
from transformers import AutoConfig, PretrainedConfig

from rlhf_plugins.contract.run import Base
from rlhf_plugins.errors import RunError, nearest

_QWEN = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}
_LLAMA = {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}
SHAPES: Mapping[str, tuple[str, tuple[int, int, int, int], dict[str, Any]]] = {
    # hub name: class, (width, width within feed-forward blocks, layers, heads), and what else differs
    "Qwen/Qwen3-0.6B": ("Qwen3Config", (1024, 3072, 28, 16), {**_QWEN, "tie_word_embeddings": True}),
    "Qwen/Qwen3-1.7B": ("Qwen3Config", (2048, 6144, 28, 16), {**_QWEN, "tie_word_embeddings": True}),
    "Qwen/Qwen3-4B": ("Qwen3Config", (2560, 9728, 36, 32), {**_QWEN, "tie_word_embeddings": True}),
    "Qwen/Qwen3-8B": ("Qwen3Config", (4096, 12288, 36, 32), {**_QWEN, "tie_word_embeddings": False}),
    "meta-llama/Llama-3.2-1B": (
        "LlamaConfig",
        (2048, 8192, 16, 32),
        {**_LLAMA, "head_dim": 64, "tie_word_embeddings": True},
    ),
    "meta-llama/Llama-3.2-3B": (
        "LlamaConfig",
        (3072, 8192, 28, 24),
        {**_LLAMA, "head_dim": 128, "tie_word_embeddings": True},
    ),
    "meta-llama/Llama-3.1-8B": (
        "LlamaConfig",
        (4096, 14336, 32, 32),
        {**_LLAMA, "head_dim": 128, "tie_word_embeddings": False},
    ),
    "google/gemma-3-1b-it": (
        "Gemma3TextConfig",
        (1152, 6912, 26, 4),
        {
            "num_key_value_heads": 1,
            "head_dim": 256,
            "vocab_size": 262144,
            "sliding_window": 512,
            "max_position_embeddings": 32768,
        },
    ),
    "google/gemma-3-4b-it": (
        "Gemma3TextConfig",
        (2560, 10240, 34, 8),
        {
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 262208,
            "sliding_window": 1024,
            "max_position_embeddings": 131072,
        },
    ),
    "HuggingFaceTB/SmolLM3-3B": (
        "SmolLM3Config",
        (2048, 11008, 36, 16),
        {
            "num_key_value_heads": 4,
            "vocab_size": 128256,
            "tie_word_embeddings": True,
            "max_position_embeddings": 65536,
        },
    ),
}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
PER_LAYER = ("layer_types", "no_rope_layers", "mlp_layer_types")  # lists with an entry for each layer
INSTRUCT = ("-Instruct", "-Base", "-it")  # endings of names of models of the same shape


def configuration(base: Base) -> Any:
    """The configuration of a base's language model, from the table here, a folder or the hub.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    if not os.path.isdir(base.path) and (shape := _shape(base.path)):
        cls, sizes, more = shape
        return getattr(transformers, cls)(**dict(zip(SIZES, sizes, strict=True)), **more)
    try:
        found = AutoConfig.from_pretrained(base.path, trust_remote_code=base.trust_remote_code)
    except (OSError, ValueError) as error:
        hint = nearest(base.path, SHAPES)
        raise RunError(f"base {base.path}: its configuration does not load, and its shape is unknown {hint}") from error
    return found.get_text_config()


def _shape(path: str) -> Any:
    """The shape of a hub name, also of an instruct or base version."""
    names = [path, *(path.removesuffix(ending) for ending in INSTRUCT)]
    return next((SHAPES[name] for name in names if name in SHAPES), None)


def with_layers(config: PretrainedConfig, layers: int) -> Any:
    """The same model with its first layers alone."""
    found: Any = deepcopy(config)
    found.num_hidden_layers = layers
    for name in PER_LAYER:
        if isinstance(value := getattr(found, name, None), list):
            setattr(found, name, value[:layers])
    return found


def period(config: Any) -> int:
    """The number of layers after which their kinds repeat."""
    lists = [value for name in PER_LAYER if isinstance(value := getattr(config, name, None), list)]
    layers: int = config.num_hidden_layers
    for size in range(1, layers):
        if all(value[size:] == value[: len(value) - size] for value in lists):
            return size
    return layers
