"""The critic of the stage `online`: checks of its options, and what the trainer is given."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rlhf_plugins.trainers.ppo.options import Value

if TYPE_CHECKING:
    from rlhf_plugins.contract.run import Adapter, Run
    from rlhf_plugins.stages.online import Online

NO_VALUES = "the advantage reads no values, so nothing uses it; leave it out"


def check_critic(stage: Online) -> None:
    """Raises ValueError where the critic's options do not go with the stage's others."""
    value, steps = stage.value, stage.setting("max_steps")
    if value != Value() and not stage.advantage.reads_values:
        raise ValueError(f"value: {NO_VALUES}")
    if value.warmup_steps and steps > 0 and (why := value.no_policy_step(steps)):
        raise ValueError(why)


def fits_adapters(stage: Online, adapter: Adapter | None) -> None:
    """Raises ValueError where the recipe's adapter does not go with the critic's, or either has dropout."""
    if adapter is None and stage.value.reads == "adapter" and stage.advantage.reads_values:
        option, other = ("start", "") if stage.value.start == "reward" else ("adapter", ", or write network: own")
        raise ValueError(f"value.{option}: needs the recipe's `adapter`, which is none; leave out one of them{other}")
    for name, one in (("adapter", adapter), ("value.adapter", stage.value.adapter)):
        if one and one.lora_dropout:
            raise ValueError(f"{name}.lora_dropout: {one.lora_dropout}, but ratios must start at 1 online; write 0")


def critic_in_processes(value: Value) -> None:
    """Raises ValueError where several processes cannot train the critic as its options say."""
    from rlhf_plugins.contract import processes

    asked = {"warmup_steps": value.warmup_steps, "start": value.start == "reward"}
    if (processes.divides_optimizer() or processes.shards()) and (name := next(filter(asked.get, asked), "")):
        raise ValueError(
            f"value.{name}: was not tried where each process holds a part; leave it out, or launch with DDP"
        )


def value_in(value: Value, run: Run) -> Value:
    """The same with the path of a network's base."""
    from rlhf_plugins.sandbox import base_path

    return replace(value, base=base_path(value.base or run.base.path)) if value.reads == "own" else value
