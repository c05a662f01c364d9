"""Columns of rows as tensors, for the losses and heads that read them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.errors import DataError, nearest

PREFIX = "column "  # of a column's name among the tensors of a batch


def column_tensor(name: str, values: Sequence[Any]) -> Tensor:
    """A column's numbers, or lists of numbers of one shape, (rows, ...), float32; what reads ids calls `.long()`.

    float32 holds whole numbers exactly up to 2**24.

    Raises:
        DataError: a row has none, or anything but finite numbers, or the shapes differ.
    """
    for row, value in enumerate(values):
        if not _numeric(value):
            raise DataError(f"column {name!r} is {str(value)[:40]!r} in row {row}: a head or loss reads finite numbers")
    try:
        return torch.tensor(list(values), dtype=torch.float32)
    except (ValueError, TypeError) as error:
        raise DataError(f"column {name!r} has lists of different lengths: {error}") from error


def numbers_of(groups: Sequence[Group], names: Collection[str]) -> dict[str, list[Any]]:
    """The columns of groups, each a value per group, checked as `column_tensor` does.

    Raises:
        DataError: a group lacks a column; names its row, the columns that it has and the nearest.
    """
    for group in groups:
        for name in names:
            if name not in group.columns:
                raise DataError(f"{group.origin or 'a row'}: has no column {name!r} {nearest(name, group.columns)}")
    found = {name: [group.columns[name] for group in groups] for name in sorted(names)}
    return {name: column_tensor(name, values).tolist() for name, values in found.items()}


def of_samples(columns: Mapping[str, Sequence[Any]], names: Collection[str]) -> dict[str, Tensor]:
    """The columns of samples that a head reads, (B, ...). Raises DataError where one is missing."""
    for name in names:
        if name not in columns:
            raise DataError(f"the reward model's head reads the column {name!r} of each row {nearest(name, columns)}")
    return {name: column_tensor(name, columns[name]) for name in sorted(names)}


def in_batch(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns among the tensors of a batch, by name, (groups, ...)."""
    return {name.removeprefix(PREFIX): values for name, values in inputs.items() if name.startswith(PREFIX)}


def _numeric(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_numeric, value))
    return isinstance(value, Real) and math.isfinite(value)
