"""State becomes JSON and tensors, and is the same afterwards, to the strides; what has no word in them is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from rlhf_plugins.engine.packing import Tensors, pack, set_weights, unpack, weights_of


@dataclass(frozen=True)
class Row:
    ids: list[int]
    known: bool


class Unit(NamedTuple):
    mean: float


def again(value: Any, *records: type) -> Any:
    tensors: Tensors = {}
    return unpack(json.loads(json.dumps(pack(value, tensors, records))), tensors, records)


def test_values_are_the_same_afterwards() -> None:
    state = {0: (1, 0.1, None), ("a", 2): [True, "x\udc80"], "row": Row([1], False), "unit": Unit(1e-300)}
    assert again(state, Row, Unit) == state
    rng = np.random.default_rng(3).bit_generator.state
    assert again(rng) == rng
    assert again(float("inf")) == float("inf")
    assert again(np.array([1, 2], dtype=np.uint32)).dtype == np.uint32


def test_tensors_keep_type_and_strides() -> None:
    tensor = torch.arange(6, dtype=torch.bfloat16).view(2, 3).t()
    found = again({"a": tensor, "b": torch.tensor(2.5)})
    assert (found["a"].stride(), found["a"].dtype, found["b"].item()) == (tensor.stride(), torch.bfloat16, 2.5)
    assert torch.equal(found["a"], tensor)


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="^a set "):
        pack({"a": {1}}, {})
    with pytest.raises(TypeError, match="^a Row "):
        pack(Row([1], True), {})


def test_weights_are_those_that_are_trained() -> None:
    model, other = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Sequential(nn.Linear(2, 1))
    model[0].bias.requires_grad_(False)
    weights = {name: tensor.clone() for name, tensor in weights_of(model).items()}
    assert "0.bias" not in weights
    assert "1.running_mean" in weights
    set_weights(model, {name: tensor + 1 for name, tensor in weights.items()})
    assert torch.equal(model[0].weight, weights["0.weight"] + 1)
    with pytest.raises(ValueError, match="in one of the two alone"):
        set_weights(other, weights)
