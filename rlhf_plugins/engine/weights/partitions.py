"""Weights that DeepSpeed's ZeRO-3 cuts into partitions: empty tensors, but where a pass or a block gathers them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

DEEPSPEED = "deepspeed"  # the package of its hooks
HEAD = "get_output_embeddings"  # of a policy; a reward model has no language-model head


def fetch_what_is_read(model: Any) -> None:
    """Has DeepSpeed gather for a pass of a module also the weights that it reads of modules which it does not call.

    These are the language-model head, of the whole model, and the matrices of a layer with an adapter.
    """
    from deepspeed.runtime.zero import register_external_parameter

    readers = [(module, module) for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if hasattr(model, HEAD):
        readers.append((model, getattr(model, HEAD)()))
    for reader, read in readers:
        for weights in read.parameters():
            register_external_parameter(reader, weights)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """For the block, each process has all weights of a model, and its passes need no other process."""
    with _without_hooks(model), whole_ones(model.parameters()):
        yield


@contextmanager
def whole_ones(weights: Iterable[nn.Parameter], changed: bool = False) -> Iterator[None]:
    """For the block, partitioned weights are whole in each process.

    Args:
        weights: of which some may be whole already.
        changed: whether what the main process writes into them stays.
    """
    from deepspeed.runtime.zero import GatheredParameters

    parts = [each for each in weights if is_partitioned(each)]
    with GatheredParameters(parts, modifier_rank=0 if changed else None):
        yield


def whole(weights: nn.Parameter) -> Tensor:
    """A partitioned weight as a whole tensor on the CPU."""
    with whole_ones([weights]):
        return weights.detach().to("cpu", copy=True)


def is_partitioned(weights: Any) -> bool:
    """Whether a weight is an empty tensor now, of which each process has a part."""
    return hasattr(weights, "ds_status") and weights.ds_status.name == "NOT_AVAILABLE"


@contextmanager
def _without_hooks(model: nn.Module) -> Iterator[None]:
    """For the block, DeepSpeed gathers and frees no weights of its own accord."""
    taken: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for part in model.modules():
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            own = {key: hook for key, hook in hooks.items() if str(hook.__module__).startswith(DEEPSPEED)}
            taken.append((hooks, own))
            for key in own:
                del hooks[key]
    try:
        yield
    finally:
        for hooks, own in taken:
            every = sorted({**hooks, **own}.items())  # in the order in which they were added
            hooks.clear()
            hooks.update(every)
