"""Out of memory: which errors say so, what frees memory, what puts random states back, and the words for a user.

A run says which stage it is in, and what was forecast for it; the switch is of the process.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

logger = logging.getLogger(__name__)
Found = TypeVar("Found")
ADVICE = "write a smaller max_length, or see what `rlhf estimate` advises"
WORDS = (  # of errors that torch raises without a class of their own
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",  # of the driver's own functions, as with expandable segments
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "can't allocate memory",
)


class _Work:
    words = ""


@contextmanager
def during(words: str) -> Iterator[None]:
    """For the block, messages about a lack of memory say what runs, such as `stage dpo`."""
    before, _Work.words = _Work.words, f" ({words})"
    try:
        yield
    finally:
        _Work.words = before


def warn(message: str, *values: object) -> None:
    """Logs that memory ran out and what is done about it; the message has places for the values."""
    logger.warning("out of memory%s " + message, _Work.words, *values)


def too_much(reason: str, what: str) -> str:
    """The message where memory does not hold what cannot be cut further."""
    return f"{reason}: {what} too much{_Work.words}; {ADVICE}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the process has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


def inconclusive(error: BaseException) -> bool:
    """Whether an error says nothing of what a trial tried: memory ran out, or the device failed for good."""
    failed: Any = getattr(torch, "AcceleratorError", ())  # which torch 2.6 lacks
    return out_of_memory(error) or isinstance(error, failed)


def release_memory() -> None:
    """Gives back what a failed pass left behind; called outside the `except`, whose traceback holds tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def random_state() -> Callable[[], None]:
    """Torch's random states as they are now; the function that is returned sets them back, also more than once."""
    state = torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore() -> None:
        torch.set_rng_state(state)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu)

    return restore


def attempted(work: Callable[..., Found], *given: Any) -> tuple[Found | None, str]:
    """What some work returns, or None and why it did not fit into memory; `release_memory` is the caller's to call."""
    try:
        return work(*given), ""
    except Exception as error:  # torch raises several classes
        if not out_of_memory(error):
            raise
        return None, str(error).partition("\n")[0]
