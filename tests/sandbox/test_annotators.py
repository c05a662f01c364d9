"""Simulated annotators: probabilities worked by hand, and frequencies that match them."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_plugins.errors import DataError
from rlhf_plugins.sandbox import Annotator, Gold

WORTH = Gold(1.0, 1.0, 0.5, 0.0)  # total 2.5


@pytest.mark.parametrize(
    ("annotator", "expected"),
    [
        (Annotator(temperature=0.5), 0.731059),  # sigmoid(0.5 / 0.5)
        (Annotator(temperature=0.5, ability=2.0), 0.880797),  # sigmoid(2)
        (Annotator(temperature=0.5, ability=0.0), 0.5),
        (Annotator(temperature=0.5, tie_margin=1.0), 0.5),  # sigmoid(1 - 1)
    ],
)
def test_probability_of_a_preference(annotator: Annotator, expected: float) -> None:
    assert annotator.probability(2.0, 1.5) == pytest.approx(expected, abs=1e-6)


def test_probability_does_not_overflow() -> None:
    assert Annotator(temperature=1e-9).probability(0.0, 3.5) == 0.0


def test_utility_adds_the_length_bias_to_the_gold_total() -> None:
    assert Annotator().utility("of course, you fool.", WORTH) == 2.5
    assert Annotator(length_bias=0.1).utility("of course, you fool.", WORTH) == pytest.approx(2.9)


def test_comparisons_happen_as_often_as_rao_and_kupper_say() -> None:
    annotator, rng = Annotator(temperature=0.5, tie_margin=0.4), np.random.default_rng(0)
    ranks = [annotator.rank(annotator.impressions((2.0, 1.5), rng)) for _ in range(20_000)]
    better, worse = annotator.probability(2.0, 1.5), annotator.probability(1.5, 2.0)
    assert [better, worse] == pytest.approx([0.645656, 0.197816], abs=1e-6)
    shares = [ranks.count(rank) / 20_000 for rank in ((0, 1), (1, 0), (0, 0))]
    assert shares == pytest.approx([better, worse, 1 - better - worse], abs=0.012)


def test_rankings_happen_as_often_as_plackett_and_luce_say() -> None:
    annotator, rng = Annotator(temperature=1.0), np.random.default_rng(0)
    utilities = np.log((3.0, 2.0, 1.0))
    ranks = [annotator.rank(annotator.impressions(utilities, rng)) for _ in range(20_000)]
    assert ranks.count((0, 1, 2)) / 20_000 == pytest.approx(3 / 6 * 2 / 3, abs=0.012)
    assert ranks.count((2, 1, 0)) / 20_000 == pytest.approx(1 / 6 * 2 / 5, abs=0.012)


def test_neighbours_within_the_margin_share_a_place() -> None:
    assert Annotator(tie_margin=0.5).rank(np.array([0.0, 2.0, 0.3, 1.9])) == (2, 0, 2, 0)
    assert Annotator().rank(np.array([0.0, 2.0, 0.3, 1.9])) == (3, 0, 2, 1)


@pytest.mark.parametrize(("difference", "level"), [(0.1, 0), (-0.5, 1), (1.0, 2), (-2.9, 2), (9.0, 3)])
def test_strength_grows_with_the_difference(difference: float, level: int) -> None:
    assert Annotator(tie_margin=0.2, strength_cuts=(1.0, 3.0)).strength(difference) == level


def test_ratings_without_noise_are_the_gold_on_a_scale_of_five() -> None:
    ratings = Annotator(rating_noise=0.0).rate(WORTH, np.random.default_rng(0))
    assert ratings == {"helpful": 5, "harmless": 5, "honest": 3, "concise": 1}


def test_noisy_ratings_stay_on_the_scale_and_scatter() -> None:
    annotator, rng = Annotator(rating_noise=1.0), np.random.default_rng(0)
    honest = [annotator.rate(WORTH, rng)["honest"] for _ in range(2000)]
    assert set(honest) == {1, 2, 3, 4, 5}
    assert np.mean(honest) == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("option", ["ability", "flips", "tie_margin", "rating_noise", "temperature"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_an_impossible_option_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(DataError, match=f"{option}.*{value}"):
        Annotator(**{option: value})  # type: ignore[arg-type]


def test_falling_strength_cuts_are_refused() -> None:
    with pytest.raises(DataError, match="must rise"):
        Annotator(strength_cuts=(2.0, 1.0))
