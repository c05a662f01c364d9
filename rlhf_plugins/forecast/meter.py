"""Counts the bytes of live tensors by what they are for, and keeps the state at each peak."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from rlhf_plugins.data.batches.branches import ALIGNED

FLASH_BACKWARD = torch.ops.aten._flash_attention_backward.default
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
BLOCK = 512  # bytes, to which torch's allocator for CUDA rounds
ACTIVATIONS, LOG_PROBS, MASK = "activations", "log-probability buffers", "attention mask"
_purpose: list[str] = []  # of what is allocated now, where somebody says so


class _Live(NamedTuple):
    size: int
    consumer: str


class _Peak(NamedTuple):
    size: int
    live: Mapping[int, _Live]


@contextmanager
def allocating(consumer: str) -> Iterator[None]:
    """For the block, whatever is allocated is for this."""
    _purpose.append(consumer)
    try:
        yield
    finally:
        _purpose.pop()


class Meter(TorchDispatchMode):
    """A context in which every new storage is counted until it is freed; each part of it has a peak of its own.

    Args:
        vocabulary: a tensor with this many rows or columns holds logits.
        row: a tensor that ends in two such dimensions is an attention mask.
        block: bytes to which a size is rounded.
    """

    def __init__(self, vocabulary: int = 0, row: int = 0, block: int = BLOCK) -> None:
        super().__init__()
        self._vocabulary, self._row, self._block = vocabulary, row, block
        self._live: dict[int, _Live] = {}
        self.now = 0
        self._part = ""
        self._peaks = {self._part: _Peak(0, {})}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes, and counts the results."""
        result = func(*args, **(kwargs or {}))
        if func is CPU_ATTENTION:
            result = (_token_by_token(result[0]), *result[1:])
        for each in tree_iter(result):
            if isinstance(each, Tensor):
                self.count(each)
        if func is FLASH_BACKWARD:
            self.count(torch.empty(_workspace(args[1], args[2], len(args[6]) - 1), dtype=torch.uint8))
        return result

    def count(self, tensor: Tensor, consumer: str = "") -> None:
        """Counts a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = -(-storage.nbytes() // self._block) * self._block
        self._live[key] = _Live(size, consumer or (_purpose[-1] if _purpose else self._guessed(tensor)))
        weakref.finalize(storage, self._free, key)
        self.now += size
        if self.now > self._peaks[self._part].size:
            self._peaks[self._part] = self._as_now()

    def begin(self, part: str) -> None:
        """Counts the peaks from here on for this part; a part that has begun before is continued."""
        self._part = part
        self._peaks.setdefault(part, self._as_now())

    def rename(self, tensor: Tensor, consumer: str) -> None:
        """Gives a tensor that is counted already its purpose."""
        key = tensor.untyped_storage()._cdata
        if key in self._live:
            self._live[key] = self._live[key]._replace(consumer=consumer)

    @property
    def peaks(self) -> dict[str, dict[str, int]]:
        """For each part the bytes at its peak by purpose, the largest first."""
        return {part: _by_consumer(peak.live) for part, peak in self._peaks.items()}

    def _as_now(self) -> _Peak:
        return _Peak(self.now, dict(self._live))

    def _guessed(self, tensor: Tensor) -> str:
        shape = tensor.shape
        if self._vocabulary and self._vocabulary in shape:
            return LOG_PROBS
        is_mask = len(shape) > 1 and 0 < self._row == shape[-2] <= shape[-1] < self._row + ALIGNED
        return MASK if is_mask else ACTIVATIONS

    def _free(self, key: int) -> None:
        self.now -= self._live.pop(key).size


def _token_by_token(output: Tensor) -> Tensor:
    """(batch, heads, tokens, width) as a GPU's kernels leave it in memory: token by token, whatever its queries are."""
    return output.transpose(1, 2).contiguous().transpose(1, 2)


def _workspace(query: Tensor, key: Tensor, sequences: int) -> int:
    """Bytes that FlashAttention's backward pass keeps meanwhile (`mha_varlen_bwd` of torch's flash_api.cpp).

    These are float32 sums of the gradients of queries, each sequence with 128 tokens more, and where several heads
    share keys, gradients of keys and values for each head.
    """
    tokens, heads, width = query.shape
    multiple = 32 if width <= 128 else 64
    sums = 4 * heads * (tokens + 128 * sequences) * (-(-width // multiple) * multiple + 1)
    expanded = 2 * len(key) * heads * width * key.element_size()
    return sums + (expanded if key.shape[1] < heads else 0)


def _by_consumer(live: Mapping[int, _Live]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for one in live.values():
        found[one.consumer] += one.size
    return dict(found.most_common())
