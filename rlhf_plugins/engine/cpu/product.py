"""The products of linear layers and their gradients, by oneDNN where MKL is the slower. It knows no autograd.

torch multiplies float32 by MKL, which on AMD's processors uses half of AVX-512's width; oneDNN, which torch carries
too, uses all of it. But oneDNN compiles a kernel for each number of rows and keeps it: so rows go to it in blocks of
few sizes, and what is left over is MKL's, as are products that are too small to gain.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

BLOCKS = (1024, 512, 256)  # rows
SMALL = 2**16  # numbers of the matrix that does not come in rows

Weights = tuple[Tensor | None, ...]  # W, A and B, or their gradients


class Product(NamedTuple):
    """x W' + s (x A') B', with A and B where the layer wears an adapter; x is (rows, inputs)."""

    scaling: float  # s
    weight: Tensor  # W, (outputs, inputs)
    down: Tensor | None = None  # A, (rank, inputs)
    up: Tensor | None = None  # B, (outputs, rank)

    @property
    def weights(self) -> Weights:
        """W, A and B."""
        return self.weight, self.down, self.up

    def summed(self, rows: int) -> Product:
        """The same with W + s B A as its W, where that is less work for so many rows than s (x A') B'."""
        if self.down is None or self.up is None or rows < max(self.weight.shape):
            return self
        return Product(1.0, torch.addmm(self.weight, self.up, self.down, alpha=self.scaling))

    def of(self, x: Tensor) -> Tensor:
        """The product, (rows, outputs)."""
        made = by_rows(x, self.weight)
        if self.down is None or self.up is None:
            return made
        return made.addmm_(x @ self.down.t(), self.up.t(), alpha=self.scaling)

    def of_inner(self, gradient: Tensor) -> Tensor | None:
        """The gradient of x A', (rows, rank), of the product's (rows, outputs); None without an adapter."""
        return None if self.up is None else (gradient @ self.up).mul_(self.scaling)

    def of_input(self, gradient: Tensor, of_inner: Tensor | None, onto: Tensor | None = None) -> Tensor:
        """The gradient of x, added onto another one in its place where there is one."""
        product = self.summed(len(gradient))
        found = by_rows(gradient, product.weight.t(), onto)
        return found if of_inner is None or product.down is None else found.addmm_(of_inner, product.down)

    def of_weights(self, gradient: Tensor, of_inner: Tensor | None, x: Tensor, needed: Sequence[bool]) -> Weights:
        """The gradients of W, A and B, of those that are needed."""
        of_weight = over_rows(gradient, x) if needed[0] else None
        of_down = of_inner.t() @ x if needed[1] and of_inner is not None else None
        if not needed[2] or self.down is None:
            return of_weight, of_down, None
        inner = x @ self.down.t()  # (rows, rank)
        return of_weight, of_down, (inner.t() @ gradient).t() * self.scaling


def blocked(x: Tensor, others: int) -> bool:
    """Whether oneDNN gets a product of x (rows, width) and a matrix of so many numbers."""
    if len(x) < BLOCKS[-1] or others < SMALL or x.dtype != torch.float32 or x.device.type != "cpu":
        return False
    return MKL_IS_SLOW and bool(torch.backends.mkldnn.enabled)


def by_rows(x: Tensor, other: Tensor, onto: Tensor | None = None) -> Tensor:
    """x other', of (rows, k) and (n, k), which is (rows, n); added onto another such in its place where there is one.

    Gradients are the caller's: it is called where none are recorded.
    """
    if not blocked(x, other.numel()):
        return x @ other.t() if onto is None else onto.addmm_(x, other.t())
    found = x.new_empty(len(x), len(other)) if onto is None else onto
    for block, by_onednn in _blocks(len(x)):
        if not by_onednn:
            found[block].addmm_(x[block], other.t(), beta=0 if onto is None else 1)
        elif onto is None:
            found[block] = _times(x[block], other)
        else:
            found[block] += _times(x[block], other)
    return found


def over_rows(x: Tensor, y: Tensor, onto: Tensor | None = None) -> Tensor:
    """x' y, of (rows, n) and (rows, k), which is (n, k); added onto another such in its place where there is one.

    It too is called where no gradient is recorded.
    """
    if not blocked(x, x.shape[1] * y.shape[1]):
        return x.t() @ y if onto is None else onto.addmm_(x.t(), y)
    if x.shape[1] > y.shape[1]:  # oneDNN is the faster with the narrower first
        return over_rows(y, x, None if onto is None else onto.t()).t()
    found = x.new_zeros(x.shape[1], y.shape[1]) if onto is None else onto
    for block, by_onednn in _blocks(len(x)):
        if by_onednn:
            found += _times(x[block].t(), y[block].t())
        else:
            found.addmm_(x[block].t(), y[block])
    return found


def _blocks(rows: int) -> Iterator[tuple[slice, bool]]:
    """Where blocks stand, the largest first; whether oneDNN gets them, which it does but for the last rows."""
    start = 0
    for size in BLOCKS:
        while rows - start >= size:
            yield slice(start, start + size), True
            start += size
    if start < rows:
        yield slice(start, rows), False


def _times(x: Tensor, other: Tensor) -> Tensor:
    """x other' by oneDNN."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, other, None, "none", [], "")
    return made


def _mkl_is_slow() -> bool:
    """Whether MKL multiplies here, beside oneDNN, on a processor of AMD's with AVX-512."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = platform.processor()
    both = torch.backends.mkl.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return both and torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in told


MKL_IS_SLOW = _mkl_is_slow()
