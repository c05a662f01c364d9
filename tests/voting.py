"""A saved ensemble of three random reward models whose members vote, and what each of them scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from rlhf_plugins import load_reward_function
from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine.weights.loading import load_trunk
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.ensemble import describe
from rlhf_plugins.reward_models.reward_model import RewardModel

MEMBERS = ("0", "1", "2")


def voting(folder: Path, base: Base) -> Path:
    for seed, name in enumerate(MEMBERS):
        torch.manual_seed(seed)
        model = RewardModel(load_trunk(base), component("pooling", "mean"), component("reward_head", "scalar"))
        words = {"base": {"path": base.path}, "pooling": {"use": "mean"}, "head": {"use": "scalar"}}
        model.save(folder / name, words)
    describe(folder, MEMBERS, {"use": "vote"}, accuracy=[1.0] * 3, early_exit=False)
    return folder


def share_that_prefers(
    folder: Path, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
) -> list[float]:
    """The share of the members, each asked alone, that scores the first response higher; a tie is one half."""
    members = [load_reward_function(folder / name) for name in MEMBERS]
    votes = [
        [(a > b) + 0.5 * (a == b) for a, b in zip(score(prompts, first), score(prompts, second), strict=True)]
        for score in members
    ]
    return [sum(of_pair) / len(members) for of_pair in zip(*votes, strict=True)]
