"""Weights that several processes hold in shards (FSDP2, ZeRO-3): whole tensors of shards, and shards of whole ones.

Without shards everything stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_plugins.contract import processes
from rlhf_plugins.engine.packing import weights_of
from rlhf_plugins.engine.weights import partitions


def whole(value: Any) -> Any:
    """A nested value with its shards as whole tensors on the CPU; all processes must call it."""
    if not processes.shards():
        return value
    if isinstance(value, Mapping):
        return {name: whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    if hasattr(value, "ds_id"):
        return partitions.whole(value)
    return value.detach().full_tensor().cpu() if _is_shard(value) else value


def state_of(module: nn.Module) -> dict[str, Any]:
    """The state of a module, whose shards are whole tensors on the CPU; all processes must call it."""
    known: dict[int, Any] = {}  # tied weights stay one tensor, so that they are saved once
    own = module.state_dict(keep_vars=processes.shards())
    for value in own.values():
        if id(value) not in known:
            found = whole(value)
            known[id(value)] = found.detach() if isinstance(found, Tensor) else found
    return {name: known[id(value)] for name, value in own.items()}


def like(value: Any, weights: Tensor) -> Any:
    """A whole tensor as the shard of this process, where weights of its shape are one."""
    if not _is_shard(weights) or not isinstance(value, Tensor) or value.shape != weights.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    shard: Any = weights
    return distribute_tensor(value, shard.device_mesh, shard.placements)


def optimizer_state(state: Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
    """The whole state of an optimizer, in shards as its weights are."""
    weights = [each for group in optimizer.param_groups for each in group["params"]]
    own = {
        place: {name: like(value, weights[place]) for name, value in each.items()}
        for place, each in state["state"].items()
    }
    return {**state, "state": own}


def to_save(model: nn.Module) -> dict[str, Any]:
    """What `save_pretrained` is given so that a model in shards is saved whole: of an adapter, what is trained. All
    processes must call it."""
    if not processes.shards():
        return {}
    return {"state_dict": whole(weights_of(model)) if hasattr(model, "peft_config") else state_of(model)}


def take_main_ones(model: nn.Module) -> None:
    """Gives the trained weights of all processes the numbers of the main one's, before they are cut into shards.

    What starts at random may differ, and each process keeps another part. All processes must call it.
    """
    for value in weights_of(model).values() if processes.shards() else ():
        if not _is_shard(value):
            torch.distributed.broadcast(value.detach(), 0)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """For the block, each process has all weights of a model that is in shards, and its passes need no other process.

    All processes must enter and leave it. What is written into weights is lost, and no gradient may be computed.
    """
    if processes.zero3():
        with partitions.gathered(model):
            yield
        return
    parts = _parts_in_shards(model)
    if not parts:
        yield
        return
    _pass_of_nothing(model)  # the first module that computes becomes the root of its parts
    resharding = [part for part in parts if _reshards(part)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in resharding:
            part.set_reshard_after_forward(True, recurse=False)
        for part in parts:
            part.reshard()
    _pass_of_nothing(model)  # a backward pass gathers early what computed before it: the same in all processes


@contextmanager
def writing(module: nn.Module) -> Iterator[None]:
    """For the block, what the main process writes into weights of a module stays, and is that of all.

    All processes must enter and leave it, outside of `gathered`. Shards of FSDP2 are written as they are.
    """
    if not processes.zero3():
        yield
        return
    with partitions.whole_ones(module.parameters(), changed=True):
        yield


def _pass_of_nothing(model: Any) -> None:
    before = vars(model).get("forward")
    model.forward = lambda: None
    with torch.no_grad():
        model()
    del model.forward
    if before is not None:
        model.forward = before
    model.reshard()  # the root does not by itself


def _parts_in_shards(model: nn.Module) -> list[Any]:
    """The modules of a model whose weights are sharded and gathered at once."""
    if not processes.fsdp():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _reshards(part: Any) -> bool:
    """Whether such a module keeps its shard alone after its forward pass."""
    group = part._get_fsdp_state()._fsdp_param_group
    return group is not None and bool(group._reshard_after_forward)


def _is_shard(value: Any) -> bool:
    if not processes.fsdp():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)
