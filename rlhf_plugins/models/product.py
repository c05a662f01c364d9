"""One linear layer within an autograd function: its product and its gradients. It knows weights, not what is saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of W, A and B


class Product(NamedTuple):
    """x W' + s (x A') B', with A and B where the layer wears an adapter; x is (rows, inputs)."""

    scaling: float  # s
    weight: Tensor  # W, (outputs, inputs)
    down: Tensor | None = None  # A, (rank, inputs)
    up: Tensor | None = None  # B, (outputs, rank)

    def of(self, x: Tensor) -> Tensor:
        """The product, (rows, outputs)."""
        if self.down is None or self.up is None:
            return functional.linear(x, self.weight)
        if len(x) > self.weight.shape[1]:  # then W + s B A is less work than s (x A') B'
            return functional.linear(x, torch.addmm(self.weight, self.up, self.down, alpha=self.scaling))
        return functional.linear(x, self.weight).addmm_(x @ self.down.t(), self.up.t(), alpha=self.scaling)

    def of_inner(self, gradient: Tensor) -> Tensor | None:
        """The gradient of x A', (rows, rank), of the product's (rows, outputs); None without an adapter."""
        return None if self.up is None else (gradient @ self.up).mul_(self.scaling)

    def of_input(self, gradient: Tensor, of_inner: Tensor | None, onto: Tensor | None = None) -> Tensor:
        """The gradient of x, added onto another one in its place where there is one."""
        found = gradient @ self.weight if onto is None else onto.addmm_(gradient, self.weight)
        return found if of_inner is None or self.down is None else found.addmm_(of_inner, self.down)

    def of_weights(self, gradient: Tensor, of_inner: Tensor | None, x: Tensor, needed: Sequence[bool]) -> Gradients:
        """The gradients of W, A and B, of those that are needed."""
        of_weight = gradient.t() @ x if needed[0] else None
        of_down = of_inner.t() @ x if needed[1] and of_inner is not None else None
        if not needed[2] or self.down is None:
            return of_weight, of_down, None
        inner = x @ self.down.t()  # (rows, rank)
        return of_weight, of_down, (inner.t() @ gradient).t() * self.scaling
