"""Rows of earlier rounds, the schedule of difficulty, coverage, outliers and variety, worked by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from rlhf_constitution.held_out import Measured, effective
from rlhf_constitution.replay import Replay, coverage, easiest, outliers

from rlhf_plugins import Comparison, Group


def rows(name: str, count: int, margin: float = 0.0) -> list[Group]:
    compared = (Comparison(0, 1, margin=margin),)
    return [Group(f"{name}{i}", ("a", "b"), compared=compared) for i in range(count)]


def test_the_first_round_trains_on_its_own_rows() -> None:
    assert Replay().rows([rows("a", 3)], 0) == rows("a", 3)


def test_round_zero_keeps_its_share_and_the_clearest_rows_come_back() -> None:
    found = Replay(first=0.2, best=0.1).rows([rows("a", 9), rows("b", 9, 0.1), rows("c", 9, 0.5), rows("d", 70)], 0)
    assert Counter(str(group.prompt)[0] for group in found) == {"d": 70, "a": 20, "c": 9, "b": 1}  # of 100


def test_less_of_round_zero_than_a_fifth_is_refused() -> None:
    with pytest.raises(ValueError, match="together they should be below 1"):
        Replay(first=0.7, best=0.4)


def test_easier_prompts_come_first() -> None:
    prompts = [
        Group("a", difficulty=3.0),
        Group("bb", difficulty=1.0),
        Group("c", difficulty=1.0),
        Group("d", difficulty=2),
    ]
    assert [group.prompt for group in easiest(prompts, 0.5)] == ["bb", "c"]
    assert [group.prompt for group in easiest(prompts, 0.75)] == ["bb", "c", "d"]


def test_coverage_counts_topics() -> None:
    prompts = [Group("p", topic="x"), Group("q", topic="x"), Group("r", topic="y")]
    assert coverage([Group("q", ("a",))], prompts) == 0.5


def test_an_outlier_is_far_from_the_median_length() -> None:
    texts = [*(" ".join("w" * n) for n in (4, 5, 5, 6, 5, 4, 6, 5, 5)), " ".join("w" * 50)]
    assert outliers([Group("p", (text,)) for text in texts]) == 0.1


def test_the_effective_number_of_answers() -> None:
    assert effective(["a", "b", "c", "d"]) == pytest.approx(4)
    assert effective(["a", "a", "a", "a"]) == 1
    assert effective(["a", "a", "b", "b"]) == pytest.approx(2)


def test_a_lead_has_the_standard_error_of_pairs() -> None:
    lead, error = Measured([2.0, 4.0, 3.0], 1).lead(Measured([1.0, 2.0, 3.0], 1))  # differences 1, 2, 0
    assert lead == 1
    assert error == pytest.approx(1 / math.sqrt(3))
