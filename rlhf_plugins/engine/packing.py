"""State as JSON and tensors, and back: what a checkpoint holds instead of pickles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tensors = dict[str, Tensor]
TAG = "is"  # the key of an object that is no dictionary of the value, but what JSON cannot hold
KINDS = "biuf"  # of arrays, by numpy


def pack(value: Any, tensors: Tensors, records: Collection[type] = ()) -> Any:
    """A value as JSON; tensors in it are added to `tensors`, on the CPU.

    Args:
        value: of None, bools, numbers, text, lists, tuples, dictionaries, tensors, arrays and records.
        tensors: the tensors by the name that the JSON has in their place.
        records: dataclasses and named tuples that may be in it.

    Raises:
        TypeError: something else is in it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor):
        name = str(len(tensors))
        strides = value.stride()
        order = sorted(range(value.dim()), key=lambda d: -strides[d])  # sums of other strides round otherwise
        tensors[name] = value.detach().permute(order).to("cpu", copy=True).contiguous()
        return {TAG: "tensor", "name": name, "on": value.device.type, "order": order}
    if isinstance(value, np.ndarray) and value.dtype.kind in KINDS:
        return {TAG: "array", "type": value.dtype.str, "values": value.tolist()}
    if type(value) in records:
        own = {name: pack(getattr(value, name), tensors, records) for name in type(value).__match_args__}
        return {TAG: "record", "type": type(value).__name__, "fields": own}
    if isinstance(value, Mapping):
        return {TAG: "dict", "items": [[pack(each, tensors, records) for each in item] for item in value.items()]}
    if type(value) is tuple:
        return {TAG: "tuple", "items": [pack(each, tensors, records) for each in value]}
    if isinstance(value, list):
        return [pack(each, tensors, records) for each in value]
    raise TypeError(f"a {type(value).__name__} ({value!r:.60})")


def unpack(
    packed: Any, tensors: Mapping[str, Tensor], records: Collection[type] = (), device: torch.device | None = None
) -> Any:
    """The value that `pack` was given, a mapping of any class as a dictionary.

    Args:
        packed: the value as JSON.
        tensors: the tensors by name, on the CPU.
        records: the records as `pack` knew them.
        device: the device of the tensors that were not on the CPU; None leaves all there.
    """
    if isinstance(packed, list):
        return [unpack(each, tensors, records, device) for each in packed]
    if not isinstance(packed, dict):
        return packed
    kind = packed[TAG]
    if kind == "tensor":
        found = tensors[packed["name"]]
        if packed["order"]:
            found = found.permute(sorted(range(found.dim()), key=packed["order"].__getitem__))
        return found if device is None or packed["on"] == "cpu" else found.to(device)
    if kind == "array":
        return np.array(packed["values"], dtype=packed["type"])
    if kind == "record":
        cls = {record.__name__: record for record in records}[packed["type"]]
        return cls(**{name: unpack(each, tensors, records, device) for name, each in packed["fields"].items()})
    if kind == "dict":
        both = ([unpack(each, tensors, records, device) for each in item] for item in packed["items"])
        return dict(both)
    return tuple(unpack(each, tensors, records, device) for each in packed["items"])


def weights_of(model: torch.nn.Module) -> Tensors:
    """The weights of a model that are trained, and the buffers that are saved with it, by name."""
    saved = model.state_dict().keys()
    trained = {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
    return trained | {name: buffer for name, buffer in model.named_buffers() if name in saved}


@torch.no_grad()
def set_weights(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Gives a model what `weights_of` gave. Raises ValueError where names or shapes are others."""
    own = weights_of(model)
    if wrong := sorted(own.keys() ^ weights.keys()):
        raise ValueError(f"weights {wrong[0]} are in one of the two alone")
    for name, old in own.items():
        if old.shape != weights[name].shape:
            raise ValueError(f"weights {name} have the shape {tuple(old.shape)} and {tuple(weights[name].shape)}")
        old.copy_(weights[name])
