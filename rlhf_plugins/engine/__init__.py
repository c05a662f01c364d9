"""Models in memory, their passes and generation; here is the switch of fast paths, and where each was tested.

Every fast path asks `active` at each call. So the switch, and the move of a model to another device, hold at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import _disable_current_modes

from rlhf_plugins.errors import RunError, nearest

Engine = Literal["auto", "plain", "compiled"]
Kernel = TypeVar("Kernel")


class set_engine:  # noqa: N801 (as torch.set_grad_enabled: a function, and a context manager)
    """Sets how this process computes: "auto" takes every fast path that fits, "plain" none.

    "compiled" is "auto" with decoder layers under `torch.compile` where they are trained (`engine/compiled.py`).

    As a context manager it holds for its block. With "plain" a model computes by the code of transformers, PEFT and
    torch, and every response in a row of its own: for a doubt, a debugger or `torch.compile`. Load the model within it,
    too: then no class of a layer is replaced. It holds for all threads, since autograd computes in threads of its own.

    Raises:
        RunError: there is no such engine.
    """

    def __init__(self, engine: str) -> None:
        if engine not in get_args(Engine):
            raise RunError(f"unknown engine {engine!r} {nearest(str(engine), get_args(Engine))}")
        self._before, _Switch.engine = _Switch.engine, engine

    def __enter__(self) -> None:
        """The engine is set already."""

    def __exit__(self, *_: object) -> None:
        """Sets the engine that was set before."""
        _Switch.engine = self._before


class _Switch:
    engine: str = "auto"
    pretended: str = ""  # a type of device; empty: where tensors are
    kernels: Mapping[Any, Any] = {}  # by what they take the place of


def current_engine() -> str:
    """How this process computes."""
    return _Switch.engine


@contextmanager
def pretending(device: str, kernels: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """For the block, fast paths are those of another type of device: a forecast of its memory computes on none.

    Args:
        device: its type.
        kernels: by those of that device in whose place they are, where these do not run here.
    """
    before = _Switch.pretended, _Switch.kernels
    _Switch.pretended, _Switch.kernels = device, kernels or {}
    try:
        yield
    finally:
        _Switch.pretended, _Switch.kernels = before


def pretended() -> str:
    """The type of device on which tensors only pretend to be, so that nothing can be tried there; empty where none."""
    return _Switch.pretended


def kernel(own: Kernel) -> Kernel:
    """A kernel, or what takes its place where tensors only pretend to be on its device."""
    found: Kernel = _Switch.kernels.get(own, own)
    return found


@contextmanager
def unseen() -> Iterator[None]:
    """For the block, a trial: nothing counts or saves tensors, as activation checkpointing does; gradients are kept."""

    def same(tensor: Tensor) -> Tensor:
        return tensor

    hidden = _disable_current_modes(), saved_tensors_hooks(same, same)
    with hidden[0], hidden[1], torch.inference_mode(False), torch.enable_grad():
        yield


class Placed(Protocol):
    """A tensor, or a model, whose first weights say where it is."""

    @property
    def device(self) -> Any: ...  # noqa: D102
    @property
    def dtype(self) -> Any: ...  # noqa: D102


@dataclass(frozen=True)
class FastPath:
    """A faster computation of the same numbers.

    Args:
        what: its name in the documentation.
        devices: types of device on which tests compare it with the plain computation; None where it is compared with
            the plain computation on the model itself and on its device, before it is used.
        dtypes: precisions in which tests compare it; None as above.
        autocast: whether it was tested under autocast.
        engines: the engines that take it.
    """

    what: str
    devices: Collection[str] | None = ("cpu",)
    dtypes: Collection[torch.dtype] | None = (torch.float32,)
    autocast: bool = False
    engines: Collection[str] = ("auto", "compiled")

    def active(self, first: Placed, *others: Placed) -> bool:
        """Whether it may compute with these tensors of one device, or in this model; not in what is being compiled."""
        device = _Switch.pretended or first.device.type
        if _Switch.engine not in self.engines or not (self.devices is None or device in self.devices):
            return False
        if torch.compiler.is_compiling():  # the compiler fuses better what it can read
            return False
        if self.dtypes is not None:
            for operand in (first, *others):
                if operand.dtype not in self.dtypes:
                    return False
        return self.autocast or not torch.is_autocast_enabled(first.device.type)


FLOATS = (torch.float32, torch.float64, torch.bfloat16)

SHARED_ROWS = FastPath("rows of several responses", None, None, autocast=True)
SPANS = FastPath("attention by spans", dtypes=FLOATS, autocast=True)
VARLEN = FastPath("attention by spans in two calls", ("cuda",), (torch.bfloat16, torch.float16), autocast=True)
SHARED_KEYS = FastPath("fused attention of heads that share keys", ("cuda",), None, autocast=True)
ONE_MASK = FastPath("one additive mask for all layers", ("cuda",), None, autocast=True)
TRIMMED_LAYER = FastPath("the last layer at scored tokens", None, None, autocast=True)
CHUNKED_HEAD = FastPath("log-probabilities in chunks", None, None, autocast=True)
CASTS = FastPath("adapters without a cast of their input", None, None, autocast=True)
HALF_LORA = FastPath("LoRA layers in half precision", None, None, autocast=True)
HALF_CASTS = FastPath("adapters of a layer cast at once", None, None, autocast=True)
HALF_GRADIENTS = FastPath("gradients of adapters in float32", None, None, autocast=True)
HALF_NORMS = FastPath("RMS norms in half precision", None, None, autocast=True)
HALF_GATED = FastPath("gated blocks in half precision", None, None, autocast=True)
HALF_ROTATIONS = FastPath("rotary embeddings in half precision", None, None, autocast=True)
LORA = FastPath("a LoRA layer as one product")
ONEDNN = FastPath("products by oneDNN")
NORMS = FastPath("fused RMS norms", autocast=True)
ROTATIONS = FastPath("fused rotary embeddings", autocast=True)
GATED_BLOCKS = FastPath("fused gated feed-forward blocks")
FOLDING = FastPath("adapters folded into weights for generation", autocast=True)
DECODING = FastPath("our own decoding loop", dtypes=(torch.float32, torch.bfloat16), autocast=True)
STATIC_CACHE = FastPath("the loop of generation over a static cache", ("cuda",), None, autocast=True)
CUDA_GRAPH = FastPath("its step as a CUDA graph", ("cuda",), None, autocast=True)
COMPILED = FastPath("decoder layers under torch.compile", None, None, autocast=True, engines=("compiled",))
KEPT_MEMORY = FastPath("freed memory kept for the next step", dtypes=None, autocast=True)
