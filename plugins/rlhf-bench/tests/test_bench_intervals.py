"""Intervals against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from rlhf_bench.intervals import estimate, resampled


def test_one_seed_has_no_interval() -> None:
    assert estimate([[1.0, 2.0, 3.0]]) == (2.0, None, None, None)


def test_equal_scores_have_an_interval_without_width() -> None:
    found = estimate(np.full((3, 5), 0.5))
    assert found == pytest.approx((0.5, 0.5, 0.5, 1 / 4001))
    assert found.clear


def test_what_equals_the_baseline_is_not_clear_of_it() -> None:
    found = estimate(np.zeros((3, 5)))
    assert (found.low, found.high, found.p, found.clear) == (0.0, 0.0, 1.0, False)


def test_prompts_that_all_seeds_agree_on_have_the_bootstraps_p() -> None:
    """Of two prompts with 3 and -1 a resample has the first twice, both, or the second twice: -1 in a quarter."""
    found = estimate([[3.0, -1.0], [3.0, -1.0]])
    assert (found.low, found.high) == (-1.0, 3.0)
    assert found.p == pytest.approx(0.5, abs=0.05)
    assert estimate([[1.0, -3.0], [1.0, -3.0]]).p == pytest.approx(0.5, abs=0.05)
    # of ten with three 1s a resample has none in 0.7^10 = 2.8%, which is more than the 2.5% below the interval
    assert estimate([[1.0] * 3 + [0.0] * 7] * 2).low == 0.0


def test_seeds_and_prompts_both_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    seeds, prompts = rng.normal(size=(400, 1)), rng.normal(size=(1, 400))
    for scores in (seeds + np.zeros((1, 4)), prompts + np.zeros((4, 1))):
        found = estimate(scores)
        assert found.high is not None
        assert found.high - found.mean == pytest.approx(1.96 / 20, rel=0.15)  # the standard error of a mean of 400


@pytest.mark.slow
def test_three_seeds_without_a_difference_are_rarely_clear() -> None:
    """Seeds deviate by 1 and prompts by 0.3: 5% of intervals may leave 0 out; 400 trials deviate by 1.1 points."""
    rng = np.random.default_rng(0)
    trials = [rng.normal(size=(3, 1)) + 0.3 * rng.normal(size=(3, 40)) for _ in range(400)]
    found = [estimate(scores) for scores in trials]
    assert np.mean([one.clear for one in found]) < 0.08
    assert np.mean([one.p is not None and one.p < 0.05 for one in found]) < 0.08


def test_a_difference_that_seeds_contradict_is_not_clear() -> None:
    assert not estimate([[1.0] * 50, [-1.0] * 50, [0.5] * 50]).clear


def test_seeds_with_other_prompts_are_compared_by_their_means() -> None:
    assert estimate([[1.0, 3.0], [0.0, 1.0, 2.0]]) == estimate([[2.0], [1.0]])


def test_a_dozen_values_without_a_mean_are_rarely_clear() -> None:
    """Of 12 of Student's with 3 degrees: resampling alone leaves 0 out in 11%; 500 trials deviate by 1 point."""
    trials = np.random.default_rng(0).standard_t(3, size=(500, 12))
    found = [resampled(values) for values in trials]
    assert np.mean([one.clear for one in found]) < 0.07
    assert np.mean([one.p is not None and one.p < 0.05 for one in found]) < 0.07


@pytest.mark.parametrize("unit", [1.0, 0.01, -0.01])
def test_the_interval_of_three_values_is_students(unit: float) -> None:
    found = resampled(unit * np.array([1.0, 2.0, 6.0]))
    wide = 4.302653 * abs(unit) * np.std([1, 2, 6], ddof=1) / 3**0.5
    assert (found.low, found.high) == pytest.approx((3 * unit - wide, 3 * unit + wide), abs=1e-5)
    assert found.p == pytest.approx(0.1885, abs=1e-4)  # P(|t| > 1.964) with 2 degrees


def test_one_value_has_no_interval_and_two_have_students() -> None:
    assert resampled([2.0]) == (2.0, None, None, None)
    assert resampled([1.0, 3.0])[:3] == pytest.approx((2.0, 2 - 12.7062, 2 + 12.7062), abs=1e-3)
