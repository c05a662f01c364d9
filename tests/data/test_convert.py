"""Converters by hand and their invariants: votes, strengths, ratings with a gap, places, pairs, and rows to write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.convert import (
    Judgement,
    compare_ratings,
    dense,
    mean_strength,
    pairs,
    preference_rows,
    ranking_rows,
    rating_rows,
    soft_label,
    strict_pairs,
    vote,
)
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.preference import read_pairs
from rlhf_plugins.data.formats.rankings import read_rankings

RATED = Group("p", ("x", "y", "z"), weight=2.0, ratings={"true": (1.0, 4.0, None), "clear": (3.0, 2.0, 3.0)}, topic="t")
RANKED = Group("p", ("x", "y", "z"), (1, 0, 0), weight=0.5)
LABELS = st.lists(st.sampled_from((1, 0, -1)), min_size=1)
PLACES = st.lists(st.none() | st.integers(0, 3), min_size=2, max_size=5)


def test_a_vote_by_hand() -> None:
    assert vote([1, 1, 1, -1, 0]) == Judgement(1, 0.4)  # (3 - 1) / 5
    assert vote([0, 0, 0, -1]) == Judgement(0, 0.5)
    assert vote([1, -1]) is None
    assert vote([1, 1, 0, 0, -1]) is None


@given(LABELS)
def test_a_vote_turns_with_its_labels(labels: list[int]) -> None:
    here, there = vote(labels), vote([-label for label in labels])
    assert (here is None) == (there is None)
    if here and there:
        assert (here.sign, here.weight) == (-there.sign, there.weight)
        assert 0 < here.weight <= 1
        assert (here.weight == 1) == (len(set(labels)) == 1)


def test_a_mean_strength_by_hand() -> None:
    assert mean_strength([2, 2, -1, 0]) == Judgement(1, 0.6, 0.75)  # 3 of 5, and 3 over 4 annotators
    assert mean_strength([0, 0]) == Judgement(0, 1.0, 0.0)
    assert mean_strength([0.1, 0.2, -0.3]) is None


def test_ratings_are_compared_on_what_both_have() -> None:
    # x and y differ by ((1 - 4) + (3 - 2)) / 2 = -1; x and z by 0 on clear alone; y and z by -1 on clear alone
    compared = compare_ratings(RATED, margins=True).compared
    assert compared == (
        Comparison(1, 0, margin=1.0, weight=2.0),
        Comparison(0, 2, tied=True, margin=0.0, weight=2.0),
        Comparison(2, 1, margin=1.0, weight=2.0),
    )


@pytest.mark.parametrize(
    ("gap", "by", "ordered"), [(1.0, [], 2), (1.01, [], 0), (0.0, ["true"], 1), (3.0, ["true"], 1), (4.0, ["true"], 0)]
)
def test_a_gap_makes_ties(gap: float, by: list[str], ordered: int) -> None:
    found = compare_ratings(RATED, gap, by).comparisons
    assert len(found) == (1 if by else 3)  # nobody rated the truth of z
    assert sum(not c.tied for c in found) == ordered
    assert {c.margin for c in found} == {None}


def test_rounding_of_means_makes_no_preference() -> None:
    group = Group("p", ("x", "y"), ratings={"a": (0.1 + 0.2, 0.3)})
    assert [c.tied for c in compare_ratings(group).comparisons] == [True]


@given(PLACES)
def test_dense_places_keep_the_order(places: list[int | None]) -> None:
    found = dense(places)
    both = [(a, b) for a, b in zip(places, found, strict=True) if a is not None and b is not None]
    assert [b is None for b in found] == [a is None for a in places]
    assert all((a < c) == (b < d) for a, b in both for c, d in both)
    assert {b for _, b in both} == set(range(len({b for _, b in both})))


def test_pairs_of_a_ranking() -> None:
    assert [(g.responses, g.ranks, g.weight) for g in pairs([RANKED], ties=True)] == [
        (("y", "z"), (0, 0), 0.5),
        (("y", "x"), (0, 1), 0.5),
        (("z", "x"), (0, 1), 0.5),
    ]
    assert len(list(pairs([RANKED]))) == 2


def test_a_pair_keeps_what_its_group_knows() -> None:
    first, *_ = pairs([compare_ratings(RATED, margins=True)])
    assert (first.responses, first.margin, first.weight, first.topic) == (("y", "x"), 1.0, 2.0, "t")
    assert (first.ratings, first.compared) == ({"true": (4.0, 1.0), "clear": (2.0, 3.0)}, None)


def test_strict_pairs_are_those_that_are_no_tie_also_with_a_soft_label() -> None:
    even = Comparison(0, 2, tied=True, probability=0.5)
    group = Group("p", ("a", "b", "c"), compared=(Comparison(1, 0, weight=0.5), even), topic="t", columns={"user": 3})
    assert strict_pairs([group]) == [Group("p", ("b", "a"), (0, 1), weight=0.5, topic="t", columns={"user": 3})]


def test_preference_rows_have_the_columns_that_are_filled() -> None:
    row = {"prompt": "p", "chosen": "y", "rejected": "x", "weight": 0.5}
    assert preference_rows([RANKED]) == [row, row | {"chosen": "z"}]
    assert preference_rows([Group("p", ("x", "y"), (0, 0))]) == []
    other = Group("q", ("x", "y"), (0, 1), margin=2.0)
    assert [r.get("margin") for r in preference_rows([RANKED, other])] == [None, None, 2.0]


def test_rating_rows_are_one_a_response() -> None:
    rows = rating_rows([RATED, RANKED])
    assert [(r["response"], r["true"], r["clear"], r["topic"]) for r in rows] == [
        ("x", 1.0, 3.0, "t"),
        ("y", 4.0, 2.0, "t"),
        ("z", None, 3.0, "t"),
    ]


@given(PLACES, st.booleans(), st.none() | st.floats(0, 5), st.sampled_from([1.0, 0.5]))
def test_rankings_that_are_written_are_read_as_they_were(
    places: list[int | None], apart: bool, margin: float | None, weight: float
) -> None:
    group = Group("p", tuple("abcde"[: len(places)]), dense(places), margin, weight=weight)
    if apart:
        group = Group("p", group.responses, compared=group.comparisons)
    rows: Any = [(f"f:{n}", row) for n, row in enumerate(ranking_rows([group]))]
    found = [g.comparisons for _, g in read_rankings(rows, Dropped())]
    assert found == ([group.comparisons] if group.comparisons else [])


@pytest.mark.parametrize("likely", [1.0, 0.75, 0.5])
def test_soft_labels_and_annotators_survive_being_written_and_read(likely: float) -> None:
    said = soft_label(likely, 2.0)
    group = Group("p", ("x", "y"), compared=(replace(said, annotator="ann"),))
    ((_, found),) = read_pairs([("f:1", preference_rows([group])[0])], Dropped())
    assert found.comparisons == group.comparisons
    ((_, found),) = read_rankings([("f:1", ranking_rows([group])[0])], Dropped())
    assert found.comparisons == group.comparisons
