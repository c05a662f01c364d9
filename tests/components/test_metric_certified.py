"""The metrics `pac_bayes` and `certificate`: what they report, which pairs count, and when they are silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlhf_plugins import ScoredPairs, component
from rlhf_plugins.arithmetic.bounds import mean_above
from rlhf_plugins.arithmetic.pac_bayes import SCALES, pac_bayes_kl
from rlhf_plugins.components.metric import Certificate


def pairs(n: int, prompts: int | None = None, width: int = 3) -> ScoredPairs:
    """Pairs that are ordered rightly with a wide margin."""
    rng = np.random.default_rng(0)
    better, worse = rng.normal(size=(2, n, width))
    known = {"prompt": np.arange(n) % (prompts or n), "chosen_features": better, "rejected_features": worse}
    return ScoredPairs(np.full(n, 5.0), np.zeros(n), *np.ones((2, n)), **known)


def test_without_errors_the_bound_is_that_of_a_risk_of_0() -> None:
    found = component("metric", "pac_bayes")(pairs(200))
    assert found["pac_bayes_accuracy"] == pytest.approx(1)
    assert found["pac_bayes_kl"] == pytest.approx(0)
    bound = pac_bayes_kl(0.0, 0.0, 200, 0.05 / len(SCALES))
    assert found["pac_bayes_lower_bound"] == pytest.approx(1 - bound, abs=1e-4)
    assert found["pac_bayes_lower_bound_of_the_mean"] == pytest.approx(1 - 2 * bound, abs=1e-4)


def test_what_it_learns_is_in_the_differences_of_features() -> None:
    some, draw = pairs(200), np.random.default_rng(1)
    assert some.rejected_features is not None
    apart = replace(some, chosen=draw.normal(size=200), chosen_features=some.rejected_features + 1)
    found = component("metric", "pac_bayes")(apart)
    assert 0.8 < found["pac_bayes_lower_bound"] < found["pac_bayes_accuracy"] < 1


def test_clopper_and_pearson_are_tighter_for_the_model_as_it_is() -> None:
    both = [component("metric", name)(pairs(200)) for name in ("pac_bayes", "certificate")]
    assert both[0]["pac_bayes_lower_bound"] < both[1]["certificate_lower_bound"] == pytest.approx(0.05 ** (1 / 200))


def test_one_pair_of_a_prompt_counts() -> None:
    assert component("metric", "pac_bayes")(pairs(60, prompts=20))["pac_bayes_pairs"] == 20


def test_it_is_silent_where_it_knows_too_little() -> None:
    metric = component("metric", "pac_bayes")
    assert metric(pairs(7)) == {}
    assert metric(pairs(8))["pac_bayes_pairs"] == 8
    assert metric(ScoredPairs(*np.ones((4, 30)))) == {}


def scored(chosen: Sequence[float], rejected: Sequence[float], prompt: Any = None) -> ScoredPairs:
    known = {} if prompt is None else {"prompt": np.array(prompt)}
    return ScoredPairs(np.array(chosen), np.array(rejected), *np.ones((2, len(chosen))), **known)


@pytest.mark.parametrize(
    ("right", "n", "delta", "bound"),
    [
        (10, 10, 0.05, 0.05**0.1),  # all right: accuracy^n = delta
        (0, 10, 0.05, 0.0),
        (1, 3, 0.1, 1 - 0.9 ** (1 / 3)),  # 1 - (1 - accuracy)^n = delta
    ],
)
def test_certificate_by_hand(right: int, n: int, delta: float, bound: float) -> None:
    found = Certificate(delta)(scored([1.0] * right + [0.0] * (n - right), [0.5] * n))
    assert found == {"certificate_lower_bound": pytest.approx(bound), "certificate_prompts": n}


def test_all_pairs_of_a_prompt_share_its_vote() -> None:
    """One prompt of share x: K(m) = 1 + (x / m - 1) / 2, the mean stake being 1/2, is 20 at m = x / 39."""
    found = Certificate()(scored([1.0, 1.0, 0.0, 2.0], [0.0, 0.0, 1.0, 2.0], prompt=[7, 7, 7, 7]))
    assert found == {"certificate_lower_bound": pytest.approx(0.5 / 39), "certificate_prompts": 1}  # a tie is an error
    twice = scored([1.0] * 60, [0.0] * 60, prompt=np.repeat(np.arange(30), 2))
    once = Certificate()(scored([1.0] * 30, [0.0] * 30))["certificate_lower_bound"]
    assert once - 0.05 < Certificate()(twice)["certificate_lower_bound"] < once == pytest.approx(0.05 ** (1 / 30))
    assert Certificate()(scored([0.0] * 4, [1.0] * 4, prompt=[0, 0, 1, 1]))["certificate_lower_bound"] == 0.0


def test_a_certificate_holds_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).random((400, 50)) < 0.8
    bounds = [Certificate(0.2)(scored(row.tolist(), [0.5] * 50))["certificate_lower_bound"] for row in draws]
    assert 0.8 <= np.mean(np.array(bounds) <= 0.8) <= 0.9  # discrete, so rather more than 0.8


def test_a_certificate_of_several_pairs_a_prompt_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    shares = rng.binomial(3, rng.beta(4, 1, size=(100, 40))) / 3  # of mean 4 / 5, alike within a prompt
    assert np.mean([mean_above(row, 0.2) <= 0.8 for row in shares]) >= 0.8
