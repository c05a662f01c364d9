"""Advantages of logged rewards, by hand."""

from __future__ import annotations

from math import sqrt

import pytest

from rlhf_plugins import DataError
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.data.batches.logged import advantages


def rated(*values: float | None, name: str = "reward") -> Group:
    return Group("q", tuple("abc"[: len(values)]), ratings={name: values})


def test_the_value_is_the_mean_over_a_prompt_or_over_all_rows() -> None:
    found = advantages([rated(1.0, 3.0, None), rated(5.0)], None)
    scale = sqrt((1 + 1 + 2**2) / 3)  # 1 - 2, 3 - 2, and 5 less 3, the mean of all
    assert found == [[pytest.approx(-1 / scale), pytest.approx(1 / scale), None], [pytest.approx(2 / scale)]]


def test_one_dimension_may_be_the_reward() -> None:
    group = Group("q", ("a", "b"), ratings={"kind": (0.0, 1.0), "true": (9.0, 0.0)})
    assert advantages([group], "kind") == [[-1.0, 1.0]]
    assert advantages([group], None) == [[1.0, -1.0]]  # means of 4.5 and .5


def test_no_reward_and_equal_rewards_are_refused() -> None:
    with pytest.raises(DataError, match=r"a rating 'rewrd' \(did you mean reward\?"):
        advantages([rated(1.0)], "rewrd")
    with pytest.raises(DataError, match="no response is better or worse"):
        advantages([rated(1.0, 1.0), rated(1.0)], None)
