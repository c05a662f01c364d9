"""What the GPU computes in, and how many of several it is."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch

from rlhf_plugins.errors import RunError, nearest

logger = logging.getLogger(__name__)
Config = TypeVar("Config")
NF4, INT8 = "nf4", "int8"  # the quantizations of a base


def computes_in_bf16() -> bool:
    """Whether the GPU computes in bfloat16 itself; emulated, as on Turing, it is slower than float32."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def half_precision() -> torch.dtype | None:
    """What products are computed in: bfloat16, or float16 on a GPU that emulates it; None, float32, on a CPU.

    float16 has no range for small gradients: trainers scale the loss. Activations beyond 65504 become infinite.
    """
    if computes_in_bf16():
        return torch.bfloat16
    return torch.float16 if torch.cuda.is_available() else None


def known_quantization(name: str) -> str:
    """The name of a quantization. Raises RunError for any other name."""
    if name not in (known := (NF4, INT8)):
        raise RunError(f"unknown quantization {name!r} {nearest(name, known)}")
    return name


def on_one_gpu(args: Config) -> Config:
    """A trainer's arguments that use one GPU where nothing launched several processes.

    transformers would copy the model to all that it sees (DataParallel), which changes the batch and gains little.
    """
    own: Any = args
    if own.n_gpu > 1:
        logger.warning("one of %d GPUs is used; CUDA_VISIBLE_DEVICES says which", own.n_gpu)
        own._n_gpu = 1
    return args
