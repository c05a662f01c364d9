"""The online stage with reward models of earlier stages: how many copies of the base there are while it trains."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.interfaces import Adapter, Base, Reward, RewardFunction, Run, Samples
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base

from .test_training_stages import online, reward, run_for


@dataclass(frozen=True)
class Counted:
    """Another reward, and how many copies of the base live in the process whenever it is asked."""

    reward: Reward
    copies: list[int]

    def build(self, run: Run) -> RewardFunction:
        score = self.reward.build(run)

        def counted(samples: Samples) -> Any:
            gc.collect()
            self.copies.append(sum(type(thing).__name__ == "LlamaModel" for thing in gc.get_objects()))
            return score(samples)

        return counted


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [(Adapter(r=4), 1), (None, 4)],  # in full: the policy, its reference and two reward models
    ids=["lora", "full"],
)
def test_two_reward_models_and_the_policy_hold_one_base(tmp_path: Path, adapter: Adapter | None, expected: int) -> None:
    base: Base = replace(tiny_base(tmp_path / "base"), adapter=adapter)
    first, second = (
        replace(reward(), name=name).run(run_for(base, tmp_path / name)) for name in ("helpful", "harmless")
    )
    both = [{"use": "model", "stage": "helpful"}, {"use": "model", "stage": "harmless"}]
    counted = Counted(component("reward", {"use": "weighted", "parts": both}), [])
    replace(online(), reward=counted).run(run_for(base, tmp_path / "ppo", first, second))
    assert set(counted.copies) == {expected}
