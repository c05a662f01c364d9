"""Records of tensors: reading, changing and comparing every tensor in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.contract.records import Compared, MemberScores, RankedScores


def over(record: Any, change: Callable[[str, Tensor], Tensor], above: str = "") -> Any:
    """The record with every tensor in it changed, given its dotted name."""
    if isinstance(record, Tensor):
        return change(above.removesuffix("."), record)
    if isinstance(record, Mapping):
        return {name: over(value, change, f"{above}{name}.") for name, value in record.items()}
    if is_dataclass(record) and not isinstance(record, type):
        inside = {f.name: over(getattr(record, f.name), change, f"{above}{f.name}.") for f in fields(record)}
        return replace(record, **inside)
    return record


def flat(record: Any) -> dict[str, Tensor]:
    """Every tensor of a record, and of the records and mappings in it, by its dotted name."""
    found: dict[str, Tensor] = {}

    def note(name: str, tensor: Tensor) -> Tensor:
        found[name] = tensor
        return tensor

    over(record, note)
    return found


def floats(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The record with every tensor of real numbers changed."""
    return over(record, lambda _, tensor: change(tensor) if tensor.is_floating_point() else tensor)


def pick(record: Any, rows: Sequence[int]) -> Any:
    """Some examples of a record, in that order."""
    index = torch.tensor(rows)
    if isinstance(record, MemberScores):
        topics = None if record.topic_accuracy is None else record.topic_accuracy[:, index]
        return replace(record, rewards=record.rewards[:, index], group=record.group[index], topic_accuracy=topics)
    if isinstance(record, RankedScores) and record.compared is not None:
        return _pick_compared(record, record.compared, rows)
    return over(record, lambda _, tensor: tensor[index])


def _pick_compared(record: RankedScores, compared: Compared, rows: Sequence[int]) -> RankedScores:
    """Some groups with their own comparisons."""
    groups = compared.group.tolist()
    kept = [(new, place) for new, old in enumerate(rows) for place, group in enumerate(groups) if group == old]
    news, places = (torch.tensor([pair[i] for pair in kept], dtype=torch.long) for i in (0, 1))
    found = replace(over(compared, lambda _, tensor: tensor[places]), group=news)
    return replace(pick(replace(record, compared=None), rows), compared=found)


def equal(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two tensors agree to rounding, NaN with NaN."""
    if one.shape != other.shape:
        return False
    return torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def shown(tensor: Tensor) -> str:
    """A tensor in a few characters: its numbers where they are few, else its shape."""
    if tensor.numel() > 8:
        return f"a tensor of shape {tuple(tensor.shape)}"
    numbers = tensor.detach().double().tolist()
    return f"{numbers:.6g}" if isinstance(numbers, float) else str([_rounded(number) for number in numbers])


def _rounded(number: Any) -> Any:
    return float(f"{number:.6g}") if isinstance(number, float) else [_rounded(item) for item in number]
