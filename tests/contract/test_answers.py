"""A reward's answer is checked whole: shapes, numbers, and each part that it predicts beside the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import tensor

from rlhf_plugins import Prediction, Reward, Samples
from rlhf_plugins.errors import ComponentError

SAMPLES = Samples(["p", "p"], ["a b", "c"], [[1], [1]], [[2, 3], [4]])


@dataclass(frozen=True)
class Fixed(Reward):
    """Answers what the test gives it."""

    said: Any

    def build(self, run: Any) -> Any:
        return lambda samples: self.said


def scored(said: Any) -> Prediction:
    found: Prediction = Fixed(said).build(None)(SAMPLES)
    return found


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (Prediction(tensor([1.0])), r"gave shape \(1,\), not \(2,\)"),
        (Prediction(tensor([1.0, float("nan")])), "gave nan for the response 'c'"),
        (Prediction(tensor([1.0, 2.0]), variance=tensor([1.0])), r"gave shape \(1,\), not \(2,\)"),
        (Prediction(tensor([1.0, 2.0]), abstained=tensor([0.0, 1.0])), "gave `abstained` as torch.float32, not bool"),
        (Prediction(tensor([1.0, 2.0]), tokens=tensor([[1.0], [2.0]])), r"gave shape \(2, 1\), not \(2, 2\)"),
        (Prediction(tensor([3.0, 2.0]), tokens=tensor([[1.0, 1.0], [2.0, 0.0]])), "not the sums of their tokens"),
        (Prediction(tensor([3.0, 2.0]), tokens=tensor([[float("inf"), 1], [2, 0]])), "gave inf for the response 'a b'"),
        (Prediction(tensor([1.0, 2.0]), dimensions={"near": tensor([float("inf"), 0.0])}), "gave an infinite 'near'"),
        ([1.0], r"gave 1 number for 2 responses"),
        ([[1.0, 2.0], [3.0], [4.0]], r"gave 3 numbers for 2 responses"),
        ([[1.0, 2.0], None, None], r"gave 3 numbers for 2 responses"),
        ([[1.0, 2.0, 3.0], [1.0]], r"gave numbers of shape \(3,\) for a response of 2 tokens"),
        ([1.0, [1.0]], "gave numbers to some responses and rows of them to others"),
        ([1.0, "a"], r"gave \[1.0, 'a'\], not a number for each of 2 responses"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(said: Any, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        scored(said)


def test_rewards_become_float32_and_what_is_behind_a_response_0() -> None:
    said = Prediction(tensor([3.0, 2.0], dtype=torch.float64), tokens=tensor([[1.0, 2.0], [2.0, 7.0]]))
    found = scored(said)
    assert found.reward.dtype == torch.float32
    assert found.tokens is not None
    assert found.tokens.tolist() == [[1.0, 2.0], [2.0, 0.0]]


def test_a_number_that_is_not_finite_is_allowed_where_a_reward_abstains() -> None:
    found = scored(Prediction(tensor([1.0, float("nan")]), abstained=tensor([False, True])))
    assert found.abstained is not None
    assert found.abstained.tolist() == [False, True]
    assert scored([1.0, None]).abstained.tolist() == [False, True]  # type: ignore[union-attr]
