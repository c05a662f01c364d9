"""Wins and the shares of a report, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlhf_plugins.arithmetic.scored import larger
from rlhf_plugins.errors import RunError
from rlhf_plugins.evaluate.statistics import (
    distinct,
    finite,
    normalised,
    paired,
)

SCORES = arrays(float, 12, elements=st.integers(-3, 3).map(float))


def test_wins_by_hand() -> None:
    assert larger(np.array([3.0, 1.0, 2.0]), np.array([1.0, 3.0, 2.0])).tolist() == [1.0, 0.0, 0.5]


@given(SCORES, SCORES)
def test_wins_and_losses_are_complementary(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert (larger(ours, theirs) + larger(theirs, ours)).tolist() == [1.0] * 12
    assert paired(ours, theirs)["win_p_value"] == paired(theirs, ours)["win_p_value"]


@pytest.mark.parametrize(("score", "expected"), [(0.4, 0.0), (0.6, 50.0), (0.8, 100.0), (0.2, -50.0), (1.0, 150.0)])
def test_normalised_score_by_hand(score: float, expected: float) -> None:
    assert normalised(score, reference=0.4, ceiling=0.8) == pytest.approx(expected)


def test_no_normalised_score_without_room_above() -> None:
    assert np.isnan(normalised(0.5, reference=0.4, ceiling=0.4))


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        (["a b a b"], 1, 2 / 4),
        (["a b a b"], 2, 2 / 3),  # ab ba ab
        (["a b", "a b", "c"], 2, 1 / 2),  # no n-gram crosses texts
        (["a", ""], 2, 0.0),
        ([], 1, 0.0),
    ],
)
def test_distinct_by_hand(texts: list[str], n: int, expected: float) -> None:
    assert distinct(texts, n) == pytest.approx(expected)


def test_scores_that_are_not_finite_are_refused() -> None:
    assert finite([1, 2.5], "reward").tolist() == [1.0, 2.5]
    with pytest.raises(RunError, match="2 of 3 rewards are not finite numbers"):
        finite([float("nan"), 0.0, float("-inf")], "reward")
