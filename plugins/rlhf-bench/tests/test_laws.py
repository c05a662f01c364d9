"""Gao's forms are recovered from points made by them, with their tops."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
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


def curve(golds: list[float], step: float) -> dict[str, list[float]]:
    return {"kl": [step * n for n in range(len(golds))], "gold": golds}


def test_seeds_are_joined_at_the_same_kl_and_leave_where_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_bench.laws.STEPS", 2)
    monkeypatch.setattr("rlhf_bench.laws.moving_mean", np.array)
    curves = [curve([1, 2, 3], 2.0), curve([0, 4, 8], 4.0)]  # gain KL / 2 up to 4, and KL up to 8
    assert mean_curve(curves, reach=1) == ([2.0, 8.0], [1.5, 8.0])
    assert mean_curve(curves, reach=0) == ([1.0, 4.0], [0.75, 3.0])


def test_a_curve_is_averaged_over_five_rollouts() -> None:
    kl, gain = mean_curve([curve([0.0] * 4 + [5.0] + [0.0] * 4, 1.0)])
    assert (kl[-1], max(gain)) == pytest.approx((7.0, 1.0), abs=0.01)  # the last three KLs are 6, 7 and 8
