"""Intervals, wins, the sign test and the shares of a report, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from rlhf_plugins.arithmetic.scored import larger
from rlhf_plugins.errors import RunError
from rlhf_plugins.evaluate.statistics import (
    distinct,
    finite,
    mean_interval,
    normalised,
    share_interval,
    sign_test,
)

SCORES = arrays(float, 12, elements=st.integers(-3, 3).map(float))


def test_an_interval_is_near_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = mean_interval(values)
    half = 1.96 * values.std(ddof=1) / 20  # of a normal approximation, sqrt(400) = 20
    assert found.mean == values.mean()
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.03)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).exponential(1.0, (300, 60))
    found = [mean_interval(row, seed=i) for i, row in enumerate(draws)]
    assert np.mean([low <= 1.0 <= high for _, low, high in found]) == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize("values", [[2.5], [2.5, 2.5, 2.5]])
def test_equal_values_have_no_width(values: list[float]) -> None:
    assert mean_interval(np.array(values)) == (2.5, 2.5, 2.5)


def test_an_interval_follows_its_seed() -> None:
    values = np.arange(20.0)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_an_interval_of_shares_stays_within_0_and_1() -> None:
    found = mean_interval(np.array([1.0] * 255 + [0.0]))
    assert 0 <= found.low < found.mean < found.high <= 1


def test_wins_by_hand() -> None:
    assert larger(np.array([3.0, 1.0, 2.0]), np.array([1.0, 3.0, 2.0])).tolist() == [1.0, 0.0, 0.5]


@given(SCORES, SCORES)
def test_wins_and_losses_are_complementary(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert (larger(ours, theirs) + larger(theirs, ours)).tolist() == [1.0] * 12
    assert sign_test(ours, theirs) == sign_test(theirs, ours)


@pytest.mark.parametrize(
    ("won", "lost", "tied", "p"),
    [
        (5, 0, 0, 2 / 32),  # both tails of 5 coins that all agree
        (4, 1, 3, 12 / 32),  # 2 (1 + 5) / 32, ties left out
        (3, 3, 0, 1.0),
        (0, 0, 4, 1.0),
        (100, 0, 0, 2.0**-99),
    ],
)
def test_sign_test_by_hand(won: int, lost: int, tied: int, p: float) -> None:
    ours = np.repeat([1.0, -1.0, 0.0], [won, lost, tied])
    assert sign_test(ours, np.zeros_like(ours)) == pytest.approx(p)


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


@pytest.mark.parametrize(
    ("share", "low", "high"), [(1.0, 0.722467, 1.0), (0.0, 0.0, 0.277533), (0.5, 0.361234, 0.638766)]
)
def test_shares_that_agree_leave_wilsons_width(share: float, low: float, high: float) -> None:
    """1.96^2 / (10 + 1.96^2) = .2775; at 0 and 1 it is what scipy has."""
    assert share_interval(np.full(10, share)) == pytest.approx((share, low, high), abs=1e-6)
    if share in (0, 1):
        wilson = stats.binomtest(int(10 * share), 10).proportion_ci(method="wilson")
        assert share_interval(np.full(10, share))[1:] == pytest.approx((wilson.low, wilson.high))
    assert share_interval(np.ones(2), least=-1.0).low == pytest.approx(1 - 2 * 3.841459 / (2 + 3.841459))
    assert share_interval(np.array([0.0, 1.0, 1.0])) == mean_interval(np.array([0.0, 1.0, 1.0]))
