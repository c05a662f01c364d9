"""What is done to rewards: numbers worked by hand, and what may not matter."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.contract.rollout import ScoredResponses
from rlhf_plugins.recipe.assemble import component


def scored(*scores: float) -> ScoredResponses:
    """Lengths 1, 2, 3, ...; every other response ended."""
    lengths = torch.arange(1, len(scores) + 1)
    return ScoredResponses(tensor(scores, dtype=torch.float64), lengths, lengths % 2 == 1)


def shaped(words: str | dict[str, Any], *scores: float) -> Tensor:
    found: Tensor = component("shaping", words)(scored(*scores))
    return found


def test_penalties_by_hand() -> None:
    assert shaped("missing_eos", 2, 2, -1).tolist() == [2, 1, -1]
    assert shaped({"use": "missing_eos", "penalty": 0.7}, 2, 2, -1).tolist() == pytest.approx([2, 1.3, -1])
    assert shaped({"use": "length_penalty", "rate": 0.5, "free": 1}, 2, 2, 2).tolist() == [2, 1.5, 1]
    assert shaped({"use": "clip", "limit": 1.5}, -3, 0.5, 2).tolist() == [-1.5, 0.5, 1.5]


def test_quantiles_by_hand() -> None:
    """Of 5 rewards the places are 1, 2.5, 2.5, 4, 5: tied ones share theirs."""
    found = shaped("quantile", -7, 3, 3, 4, 1e9)
    places = (1, 2.5, 2.5, 4, 5)
    assert found.tolist() == pytest.approx([NormalDist().inv_cdf((place - 0.5) / 5) for place in places], abs=1e-7)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(0.1, 10), st.floats(-50, 50))
def test_quantiles_heed_the_order_alone(scores: list[float], scale: float, shift: float) -> None:
    rounded = [round(score) for score in scores]
    moved = [score * scale + shift for score in rounded]
    assert_close(shaped("quantile", *rounded), shaped("quantile", *moved))


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=8), min_size=1, max_size=5))
def test_running_normalisation_knows_all_that_was_seen(rollouts: list[list[float]]) -> None:
    running = component("shaping", "running").build()
    seen: list[float] = []
    for scores in rollouts:
        seen += scores
        everything = tensor(seen, dtype=torch.float64)
        expected = (tensor(scores, dtype=torch.float64) - everything.mean()) / (everything.std(correction=0) + 1e-8)
        assert_close(running(scored(*scores)), expected, rtol=1e-4, atol=1e-4)


def test_each_training_remembers_for_itself() -> None:
    words = component("shaping", "running")
    first, second = words.build(), words.build()
    first(scored(1000.0, 2000.0))
    assert second(scored(1.0, 3.0)).tolist() == pytest.approx([-1, 1])
