"""How alike members order pairs, and when one has drifted, by hand."""

from __future__ import annotations

import pytest

from rlhf_plugins.arithmetic.intervals import difference, wilson_interval
from rlhf_plugins.reward_models.members import Share, agreement, drifted

A, B = ("p", "yes", "no"), ("q", "yes", "no")


def test_agreement_by_hand() -> None:
    """Members 0 and 1 are 1/2 apart on the mean of two pairs, 2 is 1/4 from both: 1 - (1/2 + 1/4) / 2 is 0.625."""
    found = agreement([{A: 1.0, B: 0.0}, {A: 1.0, B: 1.0}, {A: 1.0, B: 0.5, ("r", "x", "y"): 1.0}])
    assert found is not None
    assert found.shares == pytest.approx([0.625, 0.625, 0.75])
    assert found.prompts == 2
    assert agreement([{A: 1.0}, {B: 1.0}]) is None


def test_the_interval_of_a_difference_is_newcombes_example() -> None:
    """56 of 70 and 48 of 80, table II (a) of Newcombe 1998: 0.0524 to 0.3339."""
    assert difference(56 / 70, 70, 48 / 80, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert wilson_interval(1.0, 10) == pytest.approx((10 / (10 + 1.96**2), 1.0), abs=1e-4)


def test_a_fall_beyond_chance_is_said_and_chance_is_not() -> None:
    said = drifted("its accuracy", Share(0.8, 100), Share(0.5, 100))
    assert said.startswith("its accuracy has fallen from 80.0% to 50.0% (-30.0%, 95% CI -41.")
    assert drifted("its accuracy", Share(0.8, 20), Share(0.7, 20)) == ""
    assert drifted("its accuracy", Share(0.5, 100), Share(0.8, 100)) == ""
    assert drifted("its accuracy", None, Share(0.1, 100)) == ""
