"""Groups as token rows and batches: judgements stay with their responses, and what is left out is counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import tensor

from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Comparison, Group, Text
from rlhf_plugins.data.batches.branches import Layout
from rlhf_plugins.data.batches.ranked import Collator, judged, part, ranked_rows
from rlhf_plugins.data.convert import agreed_ranks
from rlhf_plugins.errors import DataError

RANKING = Group("p", ("aaa", "b", "cc"), (2, 0, None), weight=0.5, topic="x", difficulty=1.5)
RATED = Group("pp", ("d", "ee"), ratings={"kind": (4.0, None), "true": (1.0, 2.0)})
JUDGED = Group(
    "p", ("aaa", "b", "cc"), compared=(Comparison(2, 0, margin=3.0, weight=0.25), Comparison(1, 2, tied=True))
)


def encode(prompt: Text, response: Text) -> tuple[list[int], list[int]]:
    """One token a letter."""
    return [ord(letter) for letter in str(prompt)], [ord(letter) for letter in str(response)]


def everything(group: Group) -> bool:
    return len(group.responses) > 1


def test_held_out_rows_have_topics_and_dimensions_in_the_places_of_training() -> None:
    """A loss that learned a weight of each topic, and reads ratings by their place."""
    train = ranked_rows([replace(RANKING, topic="y"), RANKING, RATED], encode, None, everything)
    turned = replace(RATED, ratings={"new": (0.0, 1.0), "true": (1.0, 2.0), "kind": (4.0, None)}, topic="z")
    rows = ranked_rows([RANKING, turned], encode, None, everything, like=train)
    assert rows.dimensions == ("kind", "true", "new")
    assert [row["topic"] for row in rows.dataset] == [1, 3]  # y, x, none, z
    assert rows.dataset[1]["ratings"][0] == [4.0, 1.0, 0.0]


def test_a_row_holds_tokens_and_judgement() -> None:
    row = ranked_rows([RANKING], encode, None, everything).dataset[0]
    assert (row["prompt_ids"], row["branch_ids"][1], row["length"]) == ([112], [98], 7)
    assert (row["ranks"], row["weight"], row["difficulty"]) == ([2, 0, -1], 0.5, 1.5)
    assert row["compared"] == [[1, 0, 0, 0, 0.5, 1]]


def test_a_response_that_is_too_long_goes_alone_and_is_counted() -> None:
    rows = ranked_rows([JUDGED, RANKING], encode, 3, everything)
    assert rows.left_out == {"response longer than max_length": 2}
    first, second = rows.dataset
    assert first["compared"] == [[0, 1, 1, 0, 1, 0.5]]  # of b and cc the tie is left
    assert (second["ranks"], len(second["branch_ids"])) == ([0, -1], 2)


def test_a_group_with_nothing_left_is_counted_and_no_row_at_all_is_refused() -> None:
    rows = ranked_rows([RANKING, Group("p", ("aaa", "b"), (0, 1))], encode, 3, everything)
    assert rows.left_out == {"response longer than max_length": 2}  # a response of the ranking, and the pair
    alone = Group("p", ("b",))
    reasons = "2 x response longer than max_length, 1 x nothing left to compare"
    with pytest.raises(DataError, match=rf"no group is left to learn from \({reasons}\)"):
        ranked_rows(
            [Group("p", texts, (0, 1)) for texts in (("aa", "bb"), ("aa", "b"))] + [alone], encode, 2, everything
        )
    with pytest.raises(DataError, match=r"no group is left to learn from \(1 x response longer than max_length\)"):
        ranked_rows([Group("p", ("aaa", "bbb"), (0, 1))], encode, 2, everything)
    with pytest.raises(DataError, match=r"\(there were none\)"):
        ranked_rows([], encode, 2, everything)


def test_part_of_a_group_keeps_what_is_known_of_it() -> None:
    whole = Group("p", ("a", "b", "c"), (0, 1, 2), gold=(0.1, 0.2, 0.3), ratings={"kind": (1.0, None, 3.0)})
    assert part(whole, [0, 2]) == Group("p", ("a", "c"), (0, 2), gold=(0.1, 0.3), ratings={"kind": (1.0, 3.0)})
    assert part(JUDGED, [0, 2]).compared == (Comparison(1, 0, margin=3.0, weight=0.25),)


@pytest.mark.parametrize(
    ("compared", "ranks"),
    [
        ((Comparison(1, 0), Comparison(1, 2), Comparison(2, 0)), (2, 0, 1)),
        ((Comparison(0, 1, tied=True), Comparison(0, 2), Comparison(1, 2)), (0, 0, 2)),
        ((Comparison(0, 1), Comparison(1, 2), Comparison(2, 0)), None),  # a circle
        ((Comparison(0, 1, tied=True), Comparison(1, 2, tied=True), Comparison(0, 2)), None),
        ((Comparison(0, 1), Comparison(0, 2)), None),  # of 1 and 2 nobody said anything
        ((Comparison(0, 1), Comparison(0, 2), Comparison(0, 2)), None),
    ],
)
def test_comparisons_that_agree_on_one_order_are_ranks(compared: Any, ranks: tuple[int, ...] | None) -> None:
    assert agreed_ranks(Group("p", ("a", "b", "c"), compared=compared)) == ranks


def test_a_prompt_that_merges_with_some_response_ends_before_the_merged_token_for_all() -> None:
    def merging(prompt: Text, response: Text) -> tuple[list[int], list[int]]:
        return ([1, 2], [5]) if response == "a" else ([1], [9, 6])

    row = ranked_rows([Group("p", ("a", "b"), (0, 1))], merging, None, everything).dataset[0]
    assert (row["prompt_ids"], row["branch_ids"]) == ([1], [[2, 5], [9, 6]])


def batch(*groups: Group, **options: Any) -> dict[str, torch.Tensor]:
    rows = ranked_rows(groups, encode, None, everything)
    return Collator(0, layout=Layout.PACKED, **options)(list(rows.dataset))


def test_a_batch_of_unequal_groups_is_spread_over_the_largest() -> None:
    inputs = batch(JUDGED, RATED)
    scores = judged(Prediction(tensor([1.0, 2.0, 3.0, 4.0, 5.0])), inputs, ("kind", "true"))
    assert scores.scores.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert scores.present.tolist() == [[True, True, True], [True, True, False]]
    assert scores.ratings["true"][1, :2].tolist() == [1, 2]
    assert scores.ratings["kind"].isnan().tolist() == [[True] * 3, [False, True, True]]
    assert scores.compared is not None
    assert scores.compared.group.tolist() == [0, 0]
    assert (scores.compared.margin.tolist(), scores.compared.tied.tolist()) == ([3, 0], [False, True])


def test_all_that_a_head_says_is_spread_alike() -> None:
    rewards = tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    said = Prediction(rewards, dimensions={"kind": 10 * rewards}, members=torch.stack([rewards, -rewards], 1))
    scores = judged(said, batch(JUDGED, RATED), ("kind", "true"))
    assert scores.prediction is not None
    assert scores.prediction.dimensions["kind"].tolist() == [[10, 20, 30], [40, 50, 0]]
    assert scores.prediction.members is not None
    assert scores.prediction.members[1, 1].tolist() == [5, -5]


def test_features_stand_in_place_of_tokens() -> None:
    features = torch.arange(10.0).view(5, 2)  # of the responses of RANKING, then of RATED
    rows = list(ranked_rows([RANKING, RATED], encode, None, everything).dataset)
    inputs = Collator(0, layout=Layout.SEPARATE, features=features)(rows[::-1])
    assert inputs["features"][:, 0].tolist() == [6, 8, 0, 2, 4]
    assert inputs["group"].tolist() == [0, 0, 1, 1, 1]
    assert "input_ids" not in inputs


def test_a_prompt_of_which_no_token_is_left_is_counted() -> None:
    def merging(prompt: Text, response: Text) -> tuple[list[int], list[int]]:
        return ([], [9, ord(response)]) if prompt == "x" else ([1], [ord(response)])

    rows = ranked_rows([Group("x", ("a", "b"), (0, 1)), Group("y", ("a", "b"), (0, 1))], merging, None, everything)
    assert rows.left_out == {"prompt or response without a token": 1}
