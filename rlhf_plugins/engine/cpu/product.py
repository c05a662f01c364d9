"""The products of linear layers and their gradients, by oneDNN where MKL is slower.

torch multiplies float32 matrices by MKL, which on AMD processors uses half the width of AVX-512; oneDNN, which torch
also contains, uses all of it. But oneDNN compiles and keeps a kernel for each number of rows: so it gets rows in blocks
of few sizes, and MKL gets the remaining rows, and products that are too small to gain.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_plugins.engine import ONEDNN

BLOCKS = (1024, 512, 256)  # rows
SMALL = 2**16  # elements of the matrix that is not cut into blocks of rows

Weights = tuple[Tensor | None, ...]  # W, A and B, or their gradients


class Product(NamedTuple):
    """x W' + s (x A') B', with A and B if the layer has an active adapter; x is (rows, inputs)."""

    scaling: float  # s
    weight: Tensor  # W, (outputs, inputs)
    down: Tensor | None = None  # A, (rank, inputs)
    up: Tensor | None = None  # B, (outputs, rank)

    @property
    def weights(self) -> Weights:
        """W, A and B."""
        return self.weight, self.down, self.up

    def merged(self, rows: int) -> Product:
        """The same product with W + s B A as its W, if that is less work for this number of rows."""
        if self.down is None or self.up is None or rows < max(self.weight.shape):
            return self
        return Product(1.0, torch.addmm(self.weight, self.up, self.down, alpha=self.scaling))

    def output(self, x: Tensor) -> Tensor:
        """The product, (rows, outputs)."""
        output = times_transposed(x, self.weight)
        if self.down is None or self.up is None:
            return output
        return output.addmm_(x @ self.down.t(), self.up.t(), alpha=self.scaling)

    def low_rank_grad(self, grad: Tensor) -> Tensor | None:
        """The gradient of x A', (rows, rank), given the output's (rows, outputs); None without an adapter."""
        return None if self.up is None else (grad @ self.up).mul_(self.scaling)

    def input_grad(self, grad: Tensor, low_rank: Tensor | None, onto: Tensor | None = None) -> Tensor:
        """The gradient of x, added in place to `onto` if given."""
        product = self.merged(len(grad))
        total = times_transposed(grad, product.weight.t(), onto)
        return total if low_rank is None or product.down is None else total.addmm_(low_rank, product.down)

    def weight_grads(self, grad: Tensor, low_rank: Tensor | None, x: Tensor, needed: Sequence[bool]) -> Weights:
        """The gradients of W, A and B, each if it is needed."""
        weight = outer_sum(grad, x) if needed[0] else None
        down = low_rank.t() @ x if needed[1] and low_rank is not None else None
        if not needed[2] or self.down is None:
            return weight, down, None
        inner = x @ self.down.t()  # (rows, rank)
        return weight, down, (inner.t() @ grad).t() * self.scaling


def uses_onednn(x: Tensor, elements: int) -> bool:
    """Whether oneDNN computes the product of x (rows, width) and a matrix of this number of elements."""
    if len(x) < BLOCKS[-1] or elements < SMALL:
        return False
    return MKL_IS_SLOW and bool(torch.backends.mkldnn.enabled) and ONEDNN.active(x)


def times_transposed(x: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
    """x W', (rows, n), given (rows, k) and (n, k); added in place to `onto` if given. It records no gradient."""
    if not uses_onednn(x, weight.numel()):
        return x @ weight.t() if onto is None else onto.addmm_(x, weight.t())
    output = x.new_empty(len(x), len(weight)) if onto is None else onto
    for block, by_onednn in _blocks(len(x)):
        if not by_onednn:
            output[block].addmm_(x[block], weight.t(), beta=0 if onto is None else 1)
        elif onto is None:
            output[block] = _onednn(x[block], weight)
        else:
            output[block] += _onednn(x[block], weight)
    return output


def outer_sum(x: Tensor, y: Tensor, onto: Tensor | None = None) -> Tensor:
    """x' y, (n, k), given (rows, n) and (rows, k); added in place to `onto` if given. It records no gradient."""
    if not uses_onednn(x, x.shape[1] * y.shape[1]):
        return x.t() @ y if onto is None else onto.addmm_(x.t(), y)
    if x.shape[1] > y.shape[1]:  # oneDNN is faster with the narrower matrix first
        return outer_sum(y, x, None if onto is None else onto.t()).t()
    output = x.new_zeros(x.shape[1], y.shape[1]) if onto is None else onto
    for block, by_onednn in _blocks(len(x)):
        if by_onednn:
            output += _onednn(x[block].t(), y[block].t())
        else:
            output.addmm_(x[block].t(), y[block])
    return output


def _blocks(rows: int) -> Iterator[tuple[slice, bool]]:
    """The blocks of rows, largest first, and whether oneDNN computes each: all but the remaining rows."""
    start = 0
    for size in BLOCKS:
        while rows - start >= size:
            yield slice(start, start + size), True
            start += size
    if start < rows:
        yield slice(start, rows), False


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    """x W' by oneDNN."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return output


def _mkl_is_slow() -> bool:
    """Whether torch multiplies by MKL here on an AMD processor with AVX-512, and contains oneDNN."""
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        processor = platform.processor()
    both = torch.backends.mkl.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return both and torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in processor


MKL_IS_SLOW = _mkl_is_slow()
