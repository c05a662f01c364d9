"""Weights that several processes hold in shards (FSDP2): whole tensors of shards, and shards of whole ones.

It knows tensors and names, no trainer. Without shards everything stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rlhf_plugins.contract import processes
from rlhf_plugins.engine.packing import weights_of


def whole(value: Any) -> Any:
    """A value of dictionaries, lists and tensors, whose shards are whole tensors on the CPU; all processes must ask."""
    if not processes.shards():
        return value
    if isinstance(value, Mapping):
        return {name: whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    return value.full_tensor().cpu() if _is_shard(value) else value


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
    processes must ask."""
    if not processes.shards():
        return {}
    return {"state_dict": whole(weights_of(model) if hasattr(model, "peft_config") else model.state_dict())}


def _is_shard(value: Any) -> bool:
    if not processes.shards():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)
