"""Metrics that score the pairs again: what they ask for, and numbers worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep

import numpy as np
import pytest

from rlhf_plugins.components.metric_rescored import Consistency, Robustness, Speed
from rlhf_plugins.contract.interfaces import Metric
from rlhf_plugins.contract.records import ScoredPairs
from rlhf_plugins.contract.rows import Rewrite

CHOSEN, REJECTED = ("A b c.", "d e f g"), ("h.", "i j k")


def judged(reward: Callable[[str], float]) -> ScoredPairs:
    """Two pairs of texts by a reward of texts; a length is a number of words."""

    def scored(rewrite: Rewrite) -> ScoredPairs:
        draw = np.random.default_rng(0)
        sides = [[rewrite(text, draw) for text in texts] for texts in (CHOSEN, REJECTED)]
        rewards = [np.array([reward(text) for text in side], dtype=float) for side in sides]
        lengths = [np.array([len(text.split()) for text in side]) for side in sides]
        return ScoredPairs(*rewards, *lengths, again=scored)

    return scored(lambda text, rng: text)


def test_a_reward_of_words_is_consistent_and_one_of_characters_nearly() -> None:
    of_words = Consistency()(judged(lambda text: len(text.split())))
    assert (of_words["consistency"], len(of_words), set(of_words.values())) == (1.0, 9, {1.0})
    of_first = Consistency()(judged(lambda text: text[0].islower()))
    # rewards (0, 1) against (1, 1): wrong and tied; with the first letter turned (1, 0) against (0, 0)
    assert of_first["consistency_first_letter"] == 0.5  # the tie stays, the order of the first turns
    assert of_first["consistency"] == pytest.approx(3.5 / 4)
    assert of_first["consistency_first_letter_spearman"] == pytest.approx(-1.0)


def test_a_constant_reward_has_no_rank_correlation_before_and_after() -> None:
    found = Consistency()(judged(lambda text: 1.0))
    assert (found["consistency"], len(found)) == (1.0, 5)


def test_robustness_by_hand() -> None:
    # every word dropped: all rewards tie; every word said twice or moved: the order by words stays
    found = Robustness(rate=1.0)(judged(lambda text: len(text.split())))
    assert found == {"robustness_dropped": 0.5, "robustness_swapped": 1.0, "robustness_doubled": 1.0}
    first = Robustness(rate=1.0)(judged(lambda text: text.startswith(("A", "e"))))
    assert first["robustness_swapped"] == 0.75  # "b c. A" ties with "h.", "e f g d" wins over "j k i"


def test_speed_by_hand() -> None:
    def slow(text: str) -> float:
        sleep(0.01)
        return len(text)

    found = Speed()(judged(slow))  # 4 responses, so 2 pairs and 11 words in 0.04 s and a little
    assert 0.6 * 50 < found["speed_pairs_per_second"] <= 50
    assert found["speed_tokens_per_second"] == pytest.approx(found["speed_pairs_per_second"] * 11 / 2)


@pytest.mark.parametrize("metric", [Consistency(), Robustness(), Speed()])
def test_pairs_that_cannot_be_scored_again_give_nothing(metric: Metric) -> None:
    one = np.ones(1)
    assert metric(ScoredPairs(one, one, one, one)) == {}
