"""Pairs of one prompt as groups: every comparison once, every response once, and blocks that keep both bounds."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.changes.merge import merged

Edges = list[tuple[int, int]]
EDGES = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda e: e[0] != e[1]), min_size=1, unique=True
)


def pair(better: object, worse: object, **more: object) -> Group:
    return Group("p", (str(better), str(worse)), **{"ranks": (0, 1), **more})  # type: ignore[arg-type]


def said(groups: list[Group]) -> Counter[tuple[object, object]]:
    return Counter((g.responses[c.better], g.responses[c.worse]) for g in groups for c in g.comparisons)


def test_a_shared_response_stands_once() -> None:
    pairs = [pair("a", "b", margin=2.0, difficulty=1.0), pair("c", "a", weight=0.5, difficulty=4.0)]
    tie = Group("p", ("b", "c"), (0, 0))
    (group,) = merged([*pairs, tie])
    assert group.responses == ("a", "b", "c")
    assert group.compared == (Comparison(0, 1, margin=2.0), Comparison(2, 0, weight=0.5), Comparison(1, 2, tied=True))
    assert (group.ranks, group.difficulty) == (None, 2.5)


def test_prompts_and_topics_stay_apart() -> None:
    groups = [pair("a", "b", topic="s"), pair("a", "b", topic="t"), Group("q", ("a", "b"), (0, 1), topic="s")]
    assert [(g.prompt, g.topic) for g in merged(groups)] == [("p", "s"), ("p", "t"), ("q", "s")]


@given(EDGES, st.integers(2, 9))
def test_blocks_keep_every_comparison_once_and_their_size(edges: Edges, most: int) -> None:
    pairs = [pair(*edge) for edge in edges]
    blocks = list(merged(pairs, most))
    assert said(blocks) == said(pairs)
    assert all(len(block.responses) <= most for block in blocks)
    assert all({i for c in b.comparisons for i in (c.better, c.worse)} == set(range(len(b.responses))) for b in blocks)


@pytest.mark.parametrize("seed", [0, 1])
def test_blocks_of_a_whole_tournament_by_hand(seed: int) -> None:
    tournament = [pair(i, j) for i in range(8) for j in range(i)]  # 28 pairs of 8 responses
    blocks = list(merged(tournament, 4, seed))  # 4 parts of 2, so 6 blocks of 4
    assert [len(block.responses) for block in blocks] == [4] * 6
    assert sum(len(block.comparisons) for block in blocks) == 28


def test_blocks_follow_the_seed_and_not_the_order_of_rows() -> None:
    tournament = [pair(i, j) for i in range(9) for j in range(i)]
    shuffled = random.Random(0).sample(tournament, len(tournament))

    def parts(pairs: list[Group], seed: int) -> set[frozenset[object]]:
        return {frozenset(block.responses) for block in merged(pairs, 4, seed)}

    assert parts(tournament, 0) == parts(shuffled, 0)
    assert parts(tournament, 0) != parts(tournament, 1)
