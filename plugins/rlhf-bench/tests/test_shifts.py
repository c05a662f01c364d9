"""Rows elsewhere and under rival aims: which prompts are held out, and what is ranked by what."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_plugins import Base, Data, DataError, component

ROWS = {"format": "sandbox", "writer": "sloppy", "prompts": 20, "test_prompts": 10, "pairs": 2}


def loaded(name: str, **options: Any) -> Data:
    found: Data = component("data_format", name, rows=ROWS, **options).load(Base(""), 1)
    return found


def test_what_is_held_out_is_out_of_distribution_whatever_the_shots() -> None:
    none, few = (loaded("elsewhere", shots=shots) for shots in (0, 3))
    asked = [str(group.prompt) for group in none.prompts["test"]]
    assert [str(group.prompt) for group in few.prompts["test"]] == asked[:7]
    assert {str(group.prompt) for group in few.train} - {str(group.prompt) for group in none.train} == set(asked[7:])
    assert {str(group.prompt) for group in few.test} == set(asked[:7])
    assert {str(group.prompt) for group in few.prompts["train"]} & set(asked) == set(asked[7:])
    with pytest.raises(DataError, match="10 out-of-distribution prompts, of which shots: 9"):
        loaded("elsewhere", shots=9)


def test_a_rival_aim_turns_training_rows_alone_and_keeps_the_truth() -> None:
    rival = loaded("conflicting", dimension="concise", share=1.0)
    assert rival.gold is not None
    assert all(comparison.margin is not None for group in rival.test for comparison in group.comparisons)
    for group in rival.train:
        first, second = (rival.gold(str(group.prompt), str(text))["concise"] for text in group.responses)
        (found,) = group.comparisons
        assert not found.tied if first == second else (found.better == 0) == (first > second)
        assert found.margin is None


def test_a_dimension_that_the_truth_has_not() -> None:
    with pytest.raises(DataError, match="no dimension 'concice' .did you mean concise"):
        loaded("conflicting", dimension="concice")
