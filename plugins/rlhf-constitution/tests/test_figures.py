"""Figures that follow from theory: which pairs a gap keeps and how right they are, and the winner's curse."""

from __future__ import annotations

import numpy as np
import pytest
from rlhf_constitution.agreement import agreement, gains, length_controlled

PAIRS = 200_000


@pytest.fixture(scope="module")
def uniform() -> tuple[np.ndarray, np.ndarray]:
    """Gold differences of pairs that are uniform on [0, 1], and those of a judge with noise 0.2."""
    draw = np.random.default_rng(0)
    gold = draw.random((PAIRS, 2))
    judged = gold + 0.2 * draw.normal(size=gold.shape)
    return gold[:, 0] - gold[:, 1], judged[:, 0] - judged[:, 1]


@pytest.mark.parametrize(
    ("gap", "kept", "right"), [(0, 1.0, 0.814), (0.1, 0.845, 0.861), (0.2, 0.7, 0.902), (0.3, 0.56, 0.935)]
)
def test_a_gap_trades_pairs_for_agreement(
    uniform: tuple[np.ndarray, np.ndarray], gap: float, kept: float, right: float
) -> None:
    gold, judged = uniform
    found = agreement(judged, gold, gap)
    assert found.kept == pytest.approx(kept, abs=0.005)
    assert found.agreement == pytest.approx(right, abs=0.005)


def test_kappa_is_above_06_and_above_08_after_the_gap(uniform: tuple[np.ndarray, np.ndarray]) -> None:
    gold, judged = uniform
    assert agreement(judged, gold).kappa == pytest.approx(2 * 0.814 - 1, abs=0.01)
    assert agreement(judged, gold, 0.2).kappa == pytest.approx(2 * 0.902 - 1, abs=0.01)


def test_cohens_kappa_by_hand() -> None:
    judged = np.array([1.0, 1, 1, 1, -1, -1, -1, -1, -1, -1])
    gold = np.array([1.0, 1, 1, -1, -1, -1, -1, -1, 1, 1])  # 7 of 10 agree; chance .4 x .5 + .6 x .5 = .5
    found = agreement(judged, gold)
    assert found.agreement == pytest.approx(0.7)
    assert found.kappa == pytest.approx((0.7 - 0.5) / 0.5)
    assert found.error == pytest.approx((0.7 * 0.3 / 10) ** 0.5 / 0.5)


def test_a_judge_of_length_alone_has_no_length_controlled_agreement() -> None:
    words = np.array([5.0, 5, 5, 5])
    gold = np.array([1.0, 1, 1, -1])
    assert agreement(words, gold).agreement == 0.75
    assert length_controlled(words, gold, words) == 0.5


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_a_winner_seems_to_gain_twice_what_it_gains(n: int) -> None:
    draw = np.random.default_rng(n)
    gold, one, other = draw.normal(size=(3, PAIRS, n))  # the judge's noise equals the spread of gold
    found = gains(gold + one, gold + other, gold)
    assert found.judged / found.true == pytest.approx(2, abs=0.02)
    assert found.rescored == pytest.approx(found.true, abs=0.02)


def test_pairs_of_one_prompt_count_as_one_where_all_are_alike() -> None:
    """Four prompts of five pairs each, of which the judge is right on all of three and on none of the last."""
    judged, prompts = np.array([1.0, -1, 1, -1, 1] * 4), np.repeat(np.arange(4), 5)
    gold = judged * np.repeat([1, 1, 1, -1], 5)
    found = agreement(judged, gold, prompts=prompts)
    # sums of right - 3/4 over prompts: 5/4 three times, -15/4 once; 4 / 3 of their squares over 20^2
    error = (4 / 3 * (3 * 1.25**2 + 3.75**2)) ** 0.5 / 20
    chance = 0.6 * 0.55 + 0.4 * 0.45  # 12 of 20 are judged positive, 9 + 2 are
    assert found.error == pytest.approx(error / (1 - chance))
    assert found.error > 2 * agreement(judged, gold).error
