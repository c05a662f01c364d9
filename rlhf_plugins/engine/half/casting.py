"""Weights of adapters in half precision, all of a decoder layer in one launch.

They live as long as one call of the decoder layer, at whose beginning they are made. So no optimizer, and nothing else
that writes to weights, can come between, and a layer whose activations are recomputed makes them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, cast

import torch
from torch import Tensor

from rlhf_plugins.engine import HALF_CASTS, casts
from rlhf_plugins.engine.half import trials

TUNED = "layers_with_adapters"  # of a decoder layer


def cast_at_once(stack: Any) -> None:
    """Gives each decoder layer of a stack that has LoRA layers of ours a class that casts their weights at once."""
    for layer in stack or ():
        tuned = [module for module in layer.modules() if getattr(module, "takes_casts", False)]
        if tuned and HALF_CASTS.active(tuned[0].get_base_layer().weight):
            if TUNED not in vars(layer):
                layer.__class__ = _subclass(cast(Any, type(layer)))
            vars(layer)[TUNED] = tuned


@cache
def _subclass(own: Any) -> Any:
    """The class with its own `forward`, around which the weights are there."""

    @wraps(own.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs.get("hidden_states")
        if not isinstance(x, Tensor) or not HALF_CASTS.active(x):
            return own.forward(self, *args, **kwargs)
        with _made(vars(self)[TUNED], x):
            return own.forward(self, *args, **kwargs)

    body = {"forward": forward, "__module__": own.__module__, "__qualname__": own.__qualname__}
    return type(own.__name__, (own,), body)


@contextmanager
def _made(tuned: list[Any], x: Tensor) -> Iterator[None]:
    pairs = _pairs(tuned, x)
    try:
        if pairs:
            _make(pairs, cast(torch.dtype, trials.precision(x.device.type)))
        yield
    finally:
        for layer, *_ in pairs:
            vars(layer).pop(casts.IN_HALF, None)


def _pairs(tuned: list[Any], x: Tensor) -> list[tuple[Any, Tensor, Tensor]]:
    """LoRA layers whose adapter is cast, with its A and B."""
    from rlhf_plugins.contract import processes

    half = trials.precision(x.device.type)
    if half is None or not trials.is_half(half) or processes.shards():
        return []
    named = [(layer, name) for layer in tuned if (name := casts.plain_adapter(layer)) is not None]
    pairs = [(layer, layer.lora_A[name].weight, layer.lora_B[name].weight) for layer, name in named]
    same = trials.passes(HALF_CASTS, x.device, half, lambda: _trial(x, half))
    return [pair for pair in pairs if same and pair[1].dtype == pair[2].dtype == torch.float32]


def _trial(x: Tensor, half: torch.dtype) -> bool:
    """Whether tensors that are cast together have the bits of those that are cast alone."""
    weights = [trials.wave(*shape, like=x, dtype=torch.float32) for shape in ((4, 96), (96, 4), (1, 7))]
    return all(torch.equal(each, one.to(half)) for each, one in zip(_cast(weights, half), weights, strict=True))


@torch.no_grad()
def _cast(weights: list[Tensor], half: torch.dtype) -> list[Tensor]:
    made = [torch.empty_like(each, dtype=half) for each in weights]
    torch._foreach_copy_(made, weights)
    return made


def _make(pairs: list[tuple[Any, Tensor, Tensor]], half: torch.dtype) -> None:
    made = _cast([each for _, *both in pairs for each in both], half)
    for place, (layer, down, up) in enumerate(pairs):
        vars(layer)[casts.IN_HALF] = down, up, made[2 * place], made[2 * place + 1]
