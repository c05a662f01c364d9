"""One linear layer within an autograd function: its product and its gradients. It knows weights, not what is saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

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
        made = functional.linear(x, self.weight)
        if self.down is None or self.up is None:
            return made
        return made.addmm_(x @ self.down.t(), self.up.t(), alpha=self.scaling)

    def of_inner(self, gradient: Tensor) -> Tensor | None:
        """The gradient of x A', (rows, rank), of the product's (rows, outputs); None without an adapter."""
        return None if self.up is None else (gradient @ self.up).mul_(self.scaling)

    def of_input(self, gradient: Tensor, of_inner: Tensor | None, onto: Tensor | None = None) -> Tensor:
        """The gradient of x, added onto another one in its place where there is one."""
        product = self.summed(len(gradient))
        found = gradient @ product.weight if onto is None else onto.addmm_(gradient, product.weight)
        return found if of_inner is None or product.down is None else found.addmm_(of_inner, product.down)

    def of_weights(self, gradient: Tensor, of_inner: Tensor | None, x: Tensor, needed: Sequence[bool]) -> Weights:
        """The gradients of W, A and B, of those that are needed."""
        of_weight = gradient.t() @ x if needed[0] else None
        of_down = of_inner.t() @ x if needed[1] and of_inner is not None else None
        if not needed[2] or self.down is None:
            return of_weight, of_down, None
        inner = x @ self.down.t()  # (rows, rank)
        return of_weight, of_down, (inner.t() @ gradient).t() * self.scaling
