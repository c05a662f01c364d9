"""Gao's forms are recovered from points made by them, with their tops."""

from __future__ import annotations

from math import exp, log, sqrt

import pytest
from rlhf_bench.laws import fit, mean_curve

KL = [0.04 * n * n for n in range(1, 30)]


def test_the_form_of_best_of_n_is_recovered() -> None:
    found = fit("best_of_n", KL, [sqrt(kl) * (1.2 - 0.4 * sqrt(kl)) for kl in KL])
    assert (found.a, found.b, found.r_squared) == pytest.approx((1.2, 0.4, 1.0))
    assert found.peak_kl == pytest.approx((1.2 / 0.8) ** 2)
    assert found.turns


def test_the_form_of_reinforcement_learning_is_recovered() -> None:
    found = fit("rl", KL, [sqrt(kl) * (0.6 - 0.4 * log(sqrt(kl))) for kl in KL])
    assert (found.a, found.b) == pytest.approx((0.6, 0.4))
    assert found.peak_kl == pytest.approx(exp(0.6 / 0.4 - 1) ** 2)


def test_a_curve_that_only_rises_has_no_top() -> None:
    found = fit("best_of_n", KL, [sqrt(kl) * (1 + 0.1 * sqrt(kl)) for kl in KL])
    assert (found.peak_kl, found.turns) == (None, False)


def test_two_points_are_too_few_for_two_coefficients() -> None:
    with pytest.raises(ValueError, match="2 points with a KL above 0.01"):
        fit("rl", [0.001, 1.0, 2.0], [0.0, 1.0, 2.0])


def test_seeds_are_joined_by_means_over_equal_numbers_of_points() -> None:
    curves = [
        [{"kl": 0.0, "gold": 1.0}, {"kl": 2.0, "gold": 3.0}],
        [{"kl": 1.0, "gold": 0.0}, {"kl": 3.0, "gold": 4.0}],
    ]
    assert mean_curve(curves, 2) == ([0.5, 2.5], [0.0, 3.0])
