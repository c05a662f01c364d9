"""Rewards of rollouts: the data's truth, or a trained model; without either a message that says what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.components.reward import Gold, Model, register_reward
from rlhf_plugins.errors import RunError
from rlhf_plugins.interfaces import Base, GoldReward, PreferenceData, Run, Samples


def run_with(gold: GoldReward | None) -> Run:
    data = PreferenceData((), (), {}, gold=gold)
    unused: Any = None
    return Run(Base("base"), data, 0, Path("folder"), (), unused, unused)


def test_gold_scores_each_response_by_its_total() -> None:
    reward = Gold().build(run_with(lambda prompt, text: {"helpful": 9.0, "total": len(prompt) + len(text) / 10}))
    samples = Samples(["ab", "abc"], ["xxxx", ""], [[1], [1]], [[2], [2]])
    assert reward(samples) == [2.4, 3.0]


def test_gold_needs_data_whose_truth_is_known() -> None:
    with pytest.raises(RunError, match="gold needs data whose true reward is known"):
        Gold().build(run_with(None))


def test_model_needs_a_reward_stage() -> None:
    with pytest.raises(RunError, match="model needs a reward stage before this one"):
        Model().build(run_with(None))


def test_names_of_the_recipe() -> None:
    assert register_reward() == {"gold": Gold, "model": Model}
