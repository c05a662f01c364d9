"""Finds state that checkpoints cannot hold: built objects that change in a training and have no `state_dict`.

Their content is digested at one step and compared with the digest of a later one. Modules are left out: their weights
are saved with the model.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import nn

from rlhf_plugins.contract.component import Component
from rlhf_plugins.contract.guards import MAKER, Built, maker, named

LIBRARIES = {"accelerate", "datasets", "peft", "tokenizers", "torch", "transformers", "trl"}  # no plugin state
OURS = "rlhf_plugins."
SHARED = tuple(OURS + name for name in ("contract.rows", "data.", "registry.", "run."))  # all rows, and the run itself
DEEPEST, MOST = 8, 4096  # levels of nesting, and entries of a collection, that are looked into
PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclass
class Looks:
    """The digests of what components built, to be compared with later ones."""

    _seen: dict[int, tuple[Built, bytes]] = field(default_factory=dict)
    _said: set[int] = field(default_factory=set)

    def changed(self, parts: Any) -> Iterator[Built]:
        """What has no `state_dict` and differs from its last digest; each object is reported once.

        Args:
            parts: objects that are, or hold, what components built.
        """
        for built in stateless(parts):
            now, key = digest(built.acts), id(built)
            before = self._seen.get(key, (built, now))[1]
            self._seen[key] = built, now
            if before != now and key not in self._said:
                self._said.add(key)
                yield built


def unkept(built: Built) -> str:
    """What is wrong with what changed, for a message."""
    return (
        f"{named(built)} changes as it is called and has no state_dict: a run that goes on from a checkpoint does not "
        f"repeat it. Add state_dict and load_state_dict to {_class(built)}"
    )


def stateless(parts: Any) -> Iterator[Built]:
    """What components built, among some objects or within them, and has no `state_dict`."""
    seen = set[int]()
    waiting = [(parts, 0)]
    while waiting:
        value, depth = waiting.pop()
        if id(value) in seen or depth > DEEPEST:
            continue
        seen.add(id(value))
        if isinstance(value, Built):
            if not hasattr(value.acts, "state_dict"):
                yield value
            value = value.acts
        waiting += [(each, depth + 1) for _, each in _within(value)]


def digest(value: Any) -> bytes:
    """A digest of all state in an object or a function, without objects of this package, such as the run."""
    found = blake2b(digest_size=16)
    for piece in _pieces(value, 0, set()):
        found.update(piece)
    return found.digest()


def _pieces(value: Any, depth: int, seen: set[int]) -> Iterator[bytes]:
    yield type(value).__name__.encode()
    if isinstance(value, PLAIN):
        yield repr(value).encode()
    elif isinstance(value, torch.Tensor):
        value = value.to_dense() if value.layout is not torch.strided else value
        yield value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield value.tobytes()
    elif isinstance(value, np.random.Generator):
        yield repr(value.bit_generator.state).encode()
    elif isinstance(value, torch.Generator):
        yield value.get_state().numpy().tobytes()
    elif isinstance(value, random.Random):
        yield repr(value.getstate()).encode()
    elif id(value) not in seen and depth <= DEEPEST and not type(value).__module__.startswith(OURS):
        seen.add(id(value))
        if isinstance(value, Sequence | Set | Mapping):
            yield str(len(value)).encode()
        for name, each in _within(value):
            yield name.encode()
            yield from _pieces(each, depth + 1, seen)


def _within(value: Any) -> list[tuple[str, Any]]:
    """What an object holds: entries, attributes, and of a function what it closes over; nothing of a module."""
    if isinstance(value, (*PLAIN, torch.Tensor, np.ndarray, nn.Module, type)) or inspect.ismodule(value):
        return []
    module = type(value).__module__
    if module.partition(".")[0] in LIBRARIES or module.startswith(SHARED):
        return []
    if isinstance(value, Mapping):
        return [(repr(key)[:100], each) for key, each in list(value.items())[:MOST]]
    if isinstance(value, Set):
        return [("", each) for each in sorted(value, key=repr)[:MOST]]
    if isinstance(value, Sequence):
        return [(str(place), each) for place, each in enumerate(value[:MOST])]
    if isinstance(value, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if inspect.ismethod(value):
        return [("self", value.__self__), ("func", value.__func__)]
    held = list(vars(value).items()) if hasattr(value, "__dict__") and not isinstance(value, Component) else []
    if inspect.isfunction(value):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        held += [(name, cell.cell_contents) for name, cell in cells if _is_filled(cell)]
    return [(name, each) for name, each in held if name != MAKER]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that was never given a value
        return False


def _class(built: Built) -> str:
    if inspect.isroutine(built.acts):
        return f"a class in the place of the function that {type(maker(built)).__name__}.build returns"
    return type(built.acts).__name__
