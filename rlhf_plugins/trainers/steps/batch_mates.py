"""The rows of all processes, for a loss that compares them: each process computes every loss, and keeps its own rows'.

A score's gradient is the sum of those that the losses of all processes have for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from math import nan
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_plugins.arithmetic.ranking import NOT_PLACED, map_fields
from rlhf_plugins.contract import processes
from rlhf_plugins.trainers.steps.recovery import ROWS

Record = TypeVar("Record")
FILLED = {"ranks": NOT_PLACED, "ratings": nan}  # fields, where a group has no response; others are 0 there
ROW_OF = "group"  # the field that holds rows of the batch


def with_mates(record: Record, inputs: Mapping[str, Any]) -> tuple[Record, slice]:
    """The rows of all processes, in order, and which of them are this process's; all of them must call it.

    A process without rows gets the first one of all, since its batch counts nothing.

    Args:
        record: `RankedScores` or `PairLogps` of this process's part of a batch.
        inputs: the inputs of that part.
    """
    if processes.count() == 1:
        return record, slice(None)
    rows, own = int(inputs[ROWS]), _tensors(record)
    every = processes.gathered((rows, [tensor.shape[1:] for _, tensor in own]))
    before = sum(theirs for theirs, _ in every[: processes.index()])
    parts = []
    for (name, tensor), *shapes in zip(own, *(shapes for _, shapes in every), strict=True):
        moved = tensor + before if name == ROW_OF else tensor
        wide = _widened(moved, [max(sizes) for sizes in zip(*shapes, strict=True)], FILLED.get(name, 0))
        parts.append(wide if rows else wide[:0])
    whole = iter(_Joined.apply(*parts))
    return map_fields(record, lambda *_: next(whole)), slice(before, before + rows) if rows else slice(1)


class _Joined(torch.autograd.Function):
    """Tensors of this process -> those of all, joined by rows."""

    @staticmethod
    def forward(ctx: Any, *own: Tensor) -> tuple[Tensor, ...]:
        every = processes.gathered([tensor.detach().cpu() for tensor in own])
        place = processes.index()
        ctx.own = []
        joined = []
        for tensor, parts in zip(own, zip(*every, strict=True), strict=True):
            end = list(accumulate(map(len, parts)))[place]
            ctx.own.append(slice(end - len(tensor), end))
            joined.append(torch.cat([part.to(tensor.device) for part in parts]))
        ctx.mark_non_differentiable(*(tensor for tensor in joined if not tensor.is_floating_point()))
        return tuple(joined)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(
            processes.total(gradient)[own] if needed else None
            for gradient, own, needed in zip(gradients, ctx.own, ctx.needs_input_grad, strict=True)
        )


def _tensors(record: Any) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []

    def note(name: str, tensor: Tensor) -> Tensor:
        found.append((name, tensor))
        return tensor

    map_fields(record, note)
    return found


def _widened(tensor: Tensor, shape: list[int], fill: float) -> Tensor:
    """A tensor (rows, ...) whose rows have this shape."""
    more = [size - present for size, present in zip(shape, tensor.shape[1:], strict=True)]
    sides = [side for size in reversed(more) for side in (0, size)]
    return pad(tensor, sides, value=fill) if any(more) else tensor
