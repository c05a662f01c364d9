"""A reward that abstains is never used as a number."""

from __future__ import annotations

import pytest
import torch
from rlhf_bench.rewards import known_rewards, mean_reward

from rlhf_plugins import Prediction, RunError


def test_what_a_reward_abstains_from_does_not_count() -> None:
    found = known_rewards(Prediction(torch.tensor([1.0, 0.0, 3.0]), abstained=torch.tensor([False, True, False])))
    assert found == [1.0, None, 3.0]
    assert mean_reward(found) == 2.0
    with pytest.raises(RunError, match="abstained from all of 1 responses"):
        mean_reward([None])
