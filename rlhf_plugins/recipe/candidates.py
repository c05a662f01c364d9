"""The algorithms that a selector chooses among, in a recipe's words."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_plugins.errors import PluginError, RecipeError, nearest

if TYPE_CHECKING:
    from rlhf_plugins.contract.run_kinds import Stage

Stages = list[dict[str, Any]]

DPO = {"stage": "preference", "name": "dpo", "loss": {"use": "dpo", "beta": 0.1}}
IPO = {"stage": "preference", "name": "ipo", "loss": {"use": "ipo", "beta": 0.1}}
REWARD = {"stage": "reward_model", "name": "reward"}
PPO = {"stage": "online", "name": "ppo", "reward": {"use": "model", "stage": "reward"}, "advantage": "gae"}

ALGORITHMS: Mapping[str, Stages] = {
    "dpo": [DPO],
    "ipo": [IPO],
    "ppo": [REWARD, PPO],
    "dpo_then_ppo": [DPO, REWARD, PPO],
}


def candidates(names: Iterable[str], own: Mapping[str, Sequence[Mapping[str, Any]]] | None = None) -> dict[str, Stages]:
    """The stages of each algorithm, copied.

    Args:
        names: the names of the algorithms.
        own: further algorithms, or other stages of ours.

    Raises:
        PluginError: there is none of a name, or an algorithm has no stages.
    """
    found = {**ALGORITHMS, **(own or {})}
    for name in names:
        if name not in found:
            raise PluginError(f"unknown algorithm {name!r} {nearest(name, found)}")
        if not found[name]:
            raise PluginError(f"algorithm {name!r} has no stages")
    return {name: [copy.deepcopy(dict(stage)) for stage in found[name]] for name in names}


def with_trainer(stages: Stages, trainer: Mapping[str, Any]) -> Stages:
    """The stages with these options of TRL where they give no others."""
    return [{**stage, "trainer": {**trainer, **stage.get("trainer", {})}} if trainer else stage for stage in stages]


def within(stages: Stages, hours: float | None) -> Stages:
    """The stages with equal parts of the hours as `budget` of each training; one that has its own keeps it."""
    trains = ["budget" in vars(made(stage)) for stage in stages]
    if hours is None or not any(trains):
        return stages
    part = {"seconds": hours * 3_600 / sum(trains)}
    return [{"budget": part, **stage} if ends else stage for stage, ends in zip(stages, trains, strict=True)]


def in_a_recipe(stages: Stages) -> Stages:
    """The stages with where each starts written out: a policy from the one before it, a reward model from the base."""
    written: Stages = []
    policy = "base"
    for stage in stages:
        makes = makes_policy(stage)
        written.append({"stage": stage["stage"], "from": policy if makes else "base", **stage})
        policy = str(stage.get("name", stage["stage"])) if makes else policy
    return written


def makes_policy(stage: Mapping[str, Any]) -> bool:
    """Whether a stage in a recipe's words makes a policy, which then starts from the one before it."""
    return "policy" in made(stage).makes


def made(words: Mapping[str, Any]) -> Stage:
    """The stage of a recipe's words. Raises PluginError where they are wrong."""
    from rlhf_plugins.recipe.assemble import component

    found: Stage = component("stage", {"use": words["stage"], **{k: v for k, v in words.items() if k != "stage"}})
    return found


def faults(stages: Stages, base: str = "sandbox") -> list[str]:
    """What is wrong with the stages of an algorithm, as `rlhf check` says it."""
    from rlhf_plugins.recipe.check import check_recipe

    try:
        check_recipe({"base": base, "data": {"format": "sandbox"}, "stages": stages})
    except RecipeError as error:
        return [f"{fault.path}: {fault.message}" for fault in error.faults]
    return []
