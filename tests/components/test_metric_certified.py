"""The metric `pac_bayes`: what it reports, which pairs count, and when it is silent."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_plugins import ScoredPairs, component
from rlhf_plugins.arithmetic.pac_bayes import SCALES, pac_bayes_kl


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


def test_clopper_and_pearson_are_tighter_for_the_model_as_it_is() -> None:
    both = [component("metric", name)(pairs(200)) for name in ("pac_bayes", "certificate")]
    assert both[0]["pac_bayes_lower_bound"] < both[1]["certificate_lower_bound"] == pytest.approx(0.05 ** (1 / 200))


def test_one_pair_of_a_prompt_counts() -> None:
    assert component("metric", "pac_bayes")(pairs(60, prompts=20))["pac_bayes_pairs"] == 20


def test_it_is_silent_where_it_knows_too_little() -> None:
    metric = component("metric", "pac_bayes")
    assert metric(pairs(7)) == {}
    assert metric(ScoredPairs(*np.ones((4, 30)))) == {}
