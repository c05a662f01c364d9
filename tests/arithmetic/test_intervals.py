"""Intervals of means and of shares: Student's by hand, the bootstrap's where it is wider, and how often they hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from rlhf_plugins.arithmetic import intervals
from rlhf_plugins.arithmetic.intervals import (
    cluster_interval,
    mean_interval,
    ratio_interval,
    share_interval,
    students_half,
)

SKEWED = stats.expon.ppf((np.arange(20) + 0.5) / 20)  # (20,)


def test_an_interval_is_near_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = mean_interval(values)
    half = 1.96 * values.std(ddof=1) / 20  # of a normal approximation, sqrt(400) = 20
    assert found.mean == values.mean()
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.03)


def test_the_interval_of_three_values_is_students() -> None:
    """1, 2 and 6 have the mean 3 and a variance of 7; t is 4.302653 with 2 degrees of freedom."""
    half = 4.302653 * (7 / 3) ** 0.5
    assert mean_interval(np.array([1.0, 2.0, 6.0])) == pytest.approx((3, 3 - half, 3 + half), abs=1e-5)


def test_of_skewed_values_the_upper_end_is_the_bootstraps() -> None:
    bootstrap = stats.bootstrap((SKEWED,), np.mean, n_resamples=2000, rng=np.random.default_rng(0)).confidence_interval
    half = stats.t.ppf(0.975, 19) * SKEWED.std(ddof=1) / 20**0.5
    found = mean_interval(SKEWED)
    assert bootstrap.low > found.mean - half
    assert found.high == bootstrap.high > found.mean + half
    assert found.low == pytest.approx(found.mean - half)


@pytest.mark.parametrize(("family", "mean", "least"), [("normal", 0.0, 0.93), ("exponential", 1.0, 0.89)])
def test_an_interval_of_ten_values_holds_the_mean_as_often_as_it_says(family: str, mean: float, least: float) -> None:
    """Of 3,000 draws it holds in .956 and .906, the bootstrap alone in .903 and .871; 250 deviate by .013 and .018."""
    drawn = getattr(np.random.default_rng(0), family)(size=(250, 10))
    held = np.mean([low <= mean <= high for _, low, high in map(mean_interval, drawn)])
    assert least <= held <= 0.98


def test_the_interval_of_a_ratio_of_few_is_students() -> None:
    """6 / 8; t_i - b_i 3/4 is 1/4, -1/2 and 1/4, and t is 4.302653 with 2 degrees of freedom."""
    tops, bottoms = np.array([1.0, 1.0, 4.0]), np.array([1.0, 2.0, 5.0])
    half = 4.302653 * (3 / 2 * 6 / 16) ** 0.5 / 8
    assert students_half(tops, bottoms) == pytest.approx(half)
    assert ratio_interval(tops, bottoms) == pytest.approx((0.75, 0.75 - half, 0.75 + half))
    assert cluster_interval(tops, bottoms) == pytest.approx((0.75, 0.75 - half, 0.75 + half))
    assert students_half(SKEWED, np.ones(20)) == pytest.approx(stats.t.ppf(0.975, 19) * stats.sem(SKEWED))


def test_the_interval_of_a_ratio_holds_it_more_often_than_the_bootstraps() -> None:
    """Of 4,000 draws of 8 units with 1 to 5 rows in .930, the percentiles alone in .867; 300 deviate by .015, .020."""
    rng, held = np.random.default_rng(0), []
    for _ in range(300):
        rows = rng.integers(1, 6, 8).astype(float)
        _, low, high = ratio_interval(rows * (0.5 + 0.3 * rng.normal(size=8)), rows)
        held.append(low <= 0.5 <= high)
    assert 0.9 <= np.mean(held) <= 0.98


def test_a_ratio_without_bounds_has_no_interval() -> None:
    """Of one unit, and where draws of two units have no positive bottoms in a quarter; not of bottoms above 0."""
    one, two = np.array([2.0]), np.array([2.0, 1.0])
    unknown = pytest.approx((2.0, np.nan, np.nan), nan_ok=True)
    assert ratio_interval(one, np.array([1.0])) == unknown
    assert ratio_interval(two, np.array([2.0, -0.5])) == unknown
    assert np.isfinite(ratio_interval(two, np.array([1.0, 0.5]))).all()


@pytest.mark.parametrize("values", [[2.5], [2.5, 2.5, 2.5], [0.3 - 0.2, 0.8 - 0.7, 0.1]])
def test_equal_values_have_no_width(values: list[float]) -> None:
    assert mean_interval(np.array(values)) == pytest.approx((values[0],) * 3)
    assert np.ptp(mean_interval(np.array(values))) == 0


def test_an_interval_follows_its_seed() -> None:
    assert mean_interval(SKEWED, seed=1) == mean_interval(SKEWED, seed=1)
    assert mean_interval(SKEWED, seed=1) != mean_interval(SKEWED, seed=2)


def test_resamples_in_lots_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mean_interval(SKEWED), ratio_interval(SKEWED, SKEWED**2)
    monkeypatch.setattr(intervals, "AT_ONCE", 20 * 700)
    assert (mean_interval(SKEWED), ratio_interval(SKEWED, SKEWED**2)) == whole


@given(arrays(float, 12, elements=st.sampled_from([0.0, 0.5, 1.0])), st.sampled_from([0.0, -1.0]))
def test_an_interval_of_shares_stays_within_them(values: np.ndarray, least: float) -> None:
    found = share_interval(values, least)
    assert least <= found.low <= found.mean <= found.high <= 1


def test_an_interval_of_shares_by_hand() -> None:
    """Of 0, 1, 1 Student's is 2/3 +- 4.302653 / 3, and of ten that agree Wilson's, which a bootstrap does not have."""
    few = np.array([0.0, 1.0, 1.0])
    assert share_interval(few) == pytest.approx((2 / 3, 0, 1))
    assert share_interval(few, least=-1.0) == pytest.approx((2 / 3, (2 - 4.302653) / 3, 1), abs=1e-6)


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


def test_units_of_one_row_are_a_mean_and_rows_of_a_unit_are_no_evidence() -> None:
    values = np.random.default_rng(3).normal(size=30)
    assert cluster_interval(values, np.ones(30)) == mean_interval(values)
    assert cluster_interval(3 * values, np.full(30, 3)) == pytest.approx(mean_interval(values))
