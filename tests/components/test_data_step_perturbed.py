"""Synthetic negatives: what is done to a good response, and how an added row says it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_plugins import DataError
from rlhf_plugins.contract.rows import Comparison, Data, Group, Origin
from rlhf_plugins.data.changes.perturbations import PERTURBATIONS, Others, names, sentences
from rlhf_plugins.recipe.assemble import component

TEXT = "We met Ada at 12. She had 3.5 pounds. We left."
OTHERS = Others(["Ada", "Bob"], [TEXT, "One. Two. Three. Four."])


def made(kind: str, text: str = TEXT, seed: int = 0) -> tuple[str, str] | None:
    return PERTURBATIONS[kind](text, OTHERS, np.random.default_rng(seed))


def step(groups: list[Group], **options: Any) -> Data:
    return component("data_step", {"use": "perturbed", **options})(Data(tuple(groups)), 0)


def test_each_recipe_by_hand() -> None:
    assert names(TEXT) == ["Ada"]
    assert sentences(TEXT) == ["We met Ada at 12.", "She had 3.5 pounds.", "We left."]
    assert made("wrong_name") == (TEXT.replace("Ada", "Bob"), "Ada to Bob")
    assert made("spliced") == ("We met Ada at 12. Three. Four.", "1 sentences, then another response")


@pytest.mark.parametrize("seed", range(5))
def test_what_is_cut_short_is_the_beginning(seed: int) -> None:
    found = made("truncated", seed=seed)
    assert found is not None
    assert TEXT.startswith(found[0])
    assert 2 <= len(found[0].split()) <= 8  # of 11 words from a fifth to four fifths
    assert found[1] == f"{len(found[0].split())} of 11 words"


@given(st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_one_number_is_another_with_as_many_decimals(seed: int) -> None:
    found = made("wrong_number", seed=seed)
    assert found is not None
    old, new = found[1].split(" to ")
    assert found[0] == TEXT.replace(old, new)
    assert abs(float(new) - float(old)) <= max(float(old) / 2, 3 * 10 ** -len(new.partition(".")[2])) + 1e-9
    assert len(new.partition(".")[2]) == len(old.partition(".")[2])


@given(st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_sentences_are_in_another_order_and_none_is_lost(seed: int) -> None:
    found = made("shuffled_sentences", seed=seed)
    assert found is not None
    assert sentences(found[0]) != sentences(TEXT)
    assert sorted(sentences(found[0])) == sorted(sentences(TEXT))


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_a_text_without_anything_to_change_is_left(kind: str) -> None:
    assert made(kind, "so what") is None


def test_the_good_response_is_the_preferred_one() -> None:
    group = Group("q", ("bad", TEXT), compared=(Comparison(1, 0),), topic="t", origin=Origin("rows.jsonl", 7))
    kept, added = step([group], kinds=["truncated"], share=1.0).train
    assert kept == group
    assert (added.responses[0], added.topic) == (TEXT, "t")
    assert str(added.origin).startswith("perturbed: truncated (")


def test_pairs_are_added_to_answers_and_to_pairs() -> None:
    rows = [Group(f"q{i}", (f"We saw {name} there.",), origin=Origin("a", i)) for i, name in enumerate(("Ada", "Bob"))]
    first, second = step(rows, kinds=["wrong_name"], share=1.0, weight=0.5).train[2:]
    assert first.responses == ("We saw Ada there.", "We saw Bob there.")
    assert (first.ranks, first.weight) == ((0, 1), 0.5)
    assert second.origin == Origin("perturbed: wrong_name (Bob to Ada)", parents=("a:1",))


def test_an_undesirable_answer_is_no_good_one() -> None:
    rows = [Group("q", (TEXT,), label=label) for label in (False, True)]
    assert len(step(rows, kinds=["truncated"], share=1.0).train) == 3
    with pytest.raises(DataError, match="no row has a good response"):
        step(rows[:1], kinds=["truncated"], share=1.0)


def test_messages_are_changed_in_their_content() -> None:
    said = [{"role": "assistant", "content": TEXT}]
    ((_, pair)) = step([Group([{"role": "user", "content": "q"}], (said,))], kinds=["truncated"], share=1.0).train
    assert pair.responses[0] == said
    assert pair.responses[1][0]["role"] == "assistant"
    assert TEXT.startswith(pair.responses[1][0]["content"])


def test_rows_with_nothing_to_change_are_refused() -> None:
    with pytest.raises(DataError, match="that can be wrong_number or wrong_name"):
        step([Group("q", ("so what",))], kinds=["wrong_number", "wrong_name"])
