"""Rewards of samples, of which some may be missing: where a reward abstains, the number there means nothing."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rlhf_plugins import Prediction, RunError


def known_rewards(prediction: Prediction) -> list[float | None]:
    """One number a response, None where the reward abstained."""
    numbers: list[float | None] = prediction.reward.tolist()
    if prediction.abstained is None:
        return numbers
    return [None if out else number for number, out in zip(numbers, prediction.abstained.tolist(), strict=True)]


def mean_reward(rewards: Sequence[float | None]) -> float:
    """The mean of those that are known. Raises RunError where the reward abstained from all."""
    known = [reward for reward in rewards if reward is not None]
    if not known:
        raise RunError(f"the reward abstained from all of {len(rewards)} responses")
    return fmean(known)
