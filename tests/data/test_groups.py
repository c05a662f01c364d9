"""Groups as TRL's columns: pairs of a ranking, ties, margins, and refusals that say what is missing."""

from __future__ import annotations

import pytest

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.batches.groups import best_response, pair_rows, pairs, prompt_dataset
from rlhf_plugins.errors import DataError

RANKING = Group("p", ("a", "b", "c", "d"), (1, 0, 1, 3), gold=(1.0, 2.0, 1.5, 0.0))
TIE = Group("q", ("a", "b"), (0, 0))
PAIR = Group("r", ("worse", "better"), (1, 0), margin=2.0)
MESSAGES = [{"role": "user", "content": "hi"}]


def test_a_ranking_gives_every_strictly_ordered_pair_better_first() -> None:
    found = list(pairs([RANKING]))
    assert [g.responses for g in found] == [("b", "a"), ("b", "c"), ("b", "d"), ("a", "d"), ("c", "d")]  # a ties c
    assert [g.gold for g in found] == [(2.0, 1.0), (2.0, 1.5), (2.0, 0.0), (1.0, 0.0), (1.5, 0.0)]
    assert {g.ranks for g in found} == {(0, 1)}
    assert {g.prompt for g in found} == {"p"}


def test_a_pair_keeps_its_margin_and_knows_no_gold() -> None:
    assert list(pairs([PAIR])) == [Group("r", ("better", "worse"), (0, 1), margin=2.0)]


def test_ties_and_what_nobody_compared_give_no_pair() -> None:
    assert list(pairs([TIE, Group("s", ("a", "b"))])) == []


def test_columns_are_trls() -> None:
    assert pair_rows([PAIR, TIE]) == [{"prompt": "r", "chosen": "better", "rejected": "worse", "margin": 2.0}]


def test_a_row_without_a_margin_has_zero_beside_one_that_has() -> None:
    rows = pair_rows([Group("q", ("a", "b"), (0, 1)), PAIR])
    assert [row["margin"] for row in rows] == [0.0, 2.0]


def test_without_any_margin_there_is_no_such_column() -> None:
    assert {*map(tuple, pair_rows([RANKING]))} == {("prompt", "chosen", "rejected")}


def test_messages_stay_messages() -> None:
    said = tuple([{"role": "assistant", "content": text}] for text in ("yes", "no"))
    (row,) = pair_rows([Group(MESSAGES, said, (0, 1))])
    assert row == {"prompt": MESSAGES, "chosen": said[0], "rejected": said[1]}


def test_prompts_and_best_responses() -> None:
    assert prompt_dataset([Group("p"), Group("q")]).to_list() == [{"prompt": "p"}, {"prompt": "q"}]
    assert [*map(best_response, (RANKING, PAIR, Group("s", ("only",)), Group("t")))] == ["b", "better", "only", None]


def test_compared_pairs_keep_their_own_margins() -> None:
    compared = (Comparison(1, 0, margin=2.0), Comparison(2, 1), Comparison(0, 2, tied=True))
    rows = pair_rows([Group("p", ("a", "b", "c"), compared=compared)])
    assert [tuple(row.values()) for row in rows] == [("p", "b", "a", 2.0), ("p", "c", "b", 0.0)]


def test_the_best_response_wins_most_comparisons() -> None:
    compared = (Comparison(0, 1), Comparison(2, 0), Comparison(2, 1), Comparison(0, 1))
    circle = (Comparison(0, 1), Comparison(1, 2), Comparison(2, 0))
    groups = [Group("p", ("a", "b", "c"), compared=c) for c in (compared, circle)]
    partly = Group("q", ("a", "b", "c"), (None, 1, 0))
    assert [*map(best_response, [*groups, partly])] == ["c", "a", "c"]


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(DataError, match="no pair of responses is strictly ordered"):
        pair_rows([TIE])
    with pytest.raises(DataError, match="no prompts to generate from"):
        prompt_dataset([])
