"""Counts the bytes of live tensors by what they are for, and keeps the state at their peak. It knows no model."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from rlhf_plugins.data.branches import ALIGNED

BLOCK = 512  # bytes, to which torch's allocator for CUDA rounds
ACTIVATIONS, LOG_PROBS, MASK = "activations", "log-probability buffers", "attention mask"
_purpose: list[str] = []  # of what is allocated now, where somebody says so


class _Live(NamedTuple):
    size: int
    consumer: str


@contextmanager
def allocating(consumer: str) -> Iterator[None]:
    """For the block, whatever is allocated is for this."""
    _purpose.append(consumer)
    try:
        yield
    finally:
        _purpose.pop()


class Meter(TorchDispatchMode):
    """A context in which every new storage is counted until it is freed.

    Args:
        vocabulary: a tensor with this many rows or columns holds logits.
        row: a tensor that ends in two such dimensions is an attention mask.
        block: bytes to which a size is rounded.
    """

    def __init__(self, vocabulary: int = 0, row: int = 0, block: int = BLOCK) -> None:
        super().__init__()
        self._vocabulary, self._row, self._block = vocabulary, row, block
        self._live: dict[int, _Live] = {}
        self.now = self.peak = 0
        self._at_peak: Mapping[int, _Live] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Computes, and counts the results."""
        result = func(*args, **(kwargs or {}))
        for each in tree_iter(result):
            if isinstance(each, Tensor):
                self.count(each)
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
        if self.now > self.peak:
            self.peak, self._at_peak = self.now, dict(self._live)

    def rename(self, tensor: Tensor, consumer: str) -> None:
        """Gives a tensor that is counted already its purpose."""
        key = tensor.untyped_storage()._cdata
        if key in self._live:
            self._live[key] = self._live[key]._replace(consumer=consumer)

    @property
    def consumers(self) -> dict[str, int]:
        """Bytes at the peak by purpose, the largest first."""
        found: Counter[str] = Counter()
        for live in self._at_peak.values():
            found[live.consumer] += live.size
        return dict(found.most_common())

    def _guessed(self, tensor: Tensor) -> str:
        shape = tensor.shape
        if self._vocabulary and self._vocabulary in shape:
            return LOG_PROBS
        is_mask = len(shape) > 1 and 0 < self._row == shape[-2] <= shape[-1] < self._row + ALIGNED
        return MASK if is_mask else ACTIVATIONS

    def _free(self, key: int) -> None:
        self.now -= self._live.pop(key).size
