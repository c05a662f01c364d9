"""All outputs of a component on the kit's inputs, so that two settings of it can be compared."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlhf_plugins.errors import RlhfError
from rlhf_plugins.testing import arrays, tensor_trials
from rlhf_plugins.testing.subject import Subject, acting, raised, trained
from rlhf_plugins.testing.tensor_trials import TENSOR_KINDS

OBSERVED = (*TENSOR_KINDS, *arrays.KINDS)


def observed(subject: Subject, **changes: Any) -> dict[str, Any]:
    """What the component answers to every case, by the case's words; an error of ours is an answer too."""
    if subject.kind in arrays.KINDS:
        return arrays.observed(subject, **changes)
    made = subject.made(**changes)
    found: dict[str, Any] = {}
    for mode, one in _modes(subject.kind, made).items():
        tried = tensor_trials.bench(subject.kind)
        for words, record in [*tried.cases(one), *tried.extremes(one)]:
            torch.default_generator.manual_seed(0)
            result = _said(subject, one, words, record)
            found |= {f"{words}{mode}: {name}": part for name, part in result.items()}
    if any(name.endswith("members") for name in found):  # the trainer reads it of an ensemble
        found["bootstrap"] = made.bootstrap
    return found


def _modes(kind: str, component: Any) -> dict[str, Any]:
    acts = acting(kind, component)
    if not isinstance(acts, nn.Module):
        return {"": acts}
    later = trained(acting(kind, component))
    return {"": acts, ", trained": later, ", in train mode": copy.deepcopy(later).train()}


def _said(subject: Subject, acts: Any, words: str, record: Any) -> dict[str, Any]:
    try:
        return tensor_trials.named(tensor_trials.bench(subject.kind).call(acts, record), subject.kind)
    except RlhfError as error:
        return {"refusal": raised(error)}
    except Exception as error:
        return {"failure": raised(error)}


def differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether any answer of one is not the other's."""
    return one.keys() != other.keys() or any(not _same(value, other[name]) for name, value in one.items())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return bool(one == other)
