"""From groups to pairs and back, by hand: which pairs the ranks give, what follows them, and a group's mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.arithmetic.ranking import comparisons, concatenated, mean_over_pairs, pairs, per_group
from rlhf_plugins.contract.interfaces import RewardLoss
from rlhf_plugins.contract.records import Compared, Prediction, RankedScores
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.errors import RunError

# A > B = C; and, of the second group, B > A with C not placed.
SCORES = RankedScores.of(
    tensor([[5.0, 3.0, 1.0], [2.0, 7.0, 9.0]]), tensor([0.5, 0.0]), ranks=tensor([[0, 1, 1], [1, 0, -1]])
)


def gap(scores: RankedScores) -> Tensor:
    """Any loss of pairs."""
    return scores.chosen - scores.rejected


class Ties(RewardLoss, takes_ties=True, holds_constant=True):
    """A loss of pairs that counts the tied ones."""

    def __call__(self, scores: RankedScores) -> Tensor:
        return scores.tied.float()


class Whole(RewardLoss, whole_groups=True):
    """A loss of whole groups."""

    def __call__(self, scores: RankedScores) -> Tensor:
        return scores.scores.sum(1)


def found(compared: Compared) -> list[tuple[int, int, int, bool]]:
    columns = (compared.group, compared.better, compared.worse, compared.tied)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_ranks_give_every_placed_pair_once_the_better_first() -> None:
    assert found(comparisons(SCORES)) == [(0, 0, 1, False), (0, 0, 2, False), (1, 1, 0, False)]
    assert (0, 1, 2, True) in found(comparisons(SCORES, ties=True))


def test_what_is_known_of_a_group_follows_its_pairs() -> None:
    prediction = Prediction(SCORES.scores, variance=SCORES.scores * 10, dimensions={"kind": SCORES.scores + 1})
    rated = RankedScores.of(
        SCORES.scores, SCORES.margin, ranks=SCORES.ranks, ratings={"kind": SCORES.scores}, prediction=prediction
    )
    made = pairs(rated, comparisons(rated))
    assert made.scores.tolist() == [[5, 3], [5, 1], [7, 2]]
    assert made.margin.tolist() == [0.5, 0.5, 0.0]
    assert made.ratings["kind"].tolist() == made.scores.tolist()
    assert made.prediction is not None
    assert made.prediction.variance is not None
    assert made.prediction.variance.tolist() == (made.scores * 10).tolist()
    assert made.prediction.dimensions["kind"].tolist() == (made.scores + 1).tolist()


def test_a_group_has_the_mean_of_its_pairs_and_a_whole_group_its_own() -> None:
    assert mean_over_pairs(gap, SCORES).tolist() == [(2 + 4) / 2, 5]
    assert per_group(Ties(), SCORES).tolist() == pytest.approx([1 / 3, 0])
    assert per_group(Whole(), SCORES).tolist() == [9, 18]


def test_a_group_without_a_pair_costs_nothing_and_teaches_nothing() -> None:
    scores = tensor([[1.0, 2.0]], requires_grad=True)
    tied = RankedScores.of(scores, tensor([0.0]), ranks=tensor([[0, 0]]))
    loss = mean_over_pairs(gap, tied)
    loss.sum().backward()
    assert loss.tolist() == [0]
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0, 0]]


def test_comparisons_of_its_own_stand_in_place_of_the_ranks() -> None:
    own = Compared(
        tensor([1]), tensor([2]), tensor([1]), tensor([False]), tensor([3.0]), tensor([0.25]), tensor([0.75])
    )
    scores = RankedScores.of(SCORES.scores, SCORES.margin, ranks=SCORES.ranks, compared=own)
    made = pairs(scores, comparisons(scores))
    assert (made.scores.tolist(), made.margin.tolist(), made.weight.tolist()) == ([[9, 7]], [3], [0.25])
    assert made.probability.tolist() == [0.75]


@given(st.permutations(range(4)), st.lists(st.sampled_from([0, 1, 2, -1]), min_size=4, max_size=4))
def test_the_order_of_responses_never_matters(order: list[int], ranks: list[int]) -> None:
    values, placed = tensor([[0.3, -2.0, 1.5, 4.0]]), tensor([ranks])
    turned = RankedScores.of(values[:, order], tensor([0.0]), ranks=placed[:, order])
    assert_close(
        mean_over_pairs(gap, turned), mean_over_pairs(gap, RankedScores.of(values, tensor([0.0]), ranks=placed))
    )


@given(st.lists(st.sampled_from([0, 1, 2, None]), min_size=2, max_size=5))
def test_a_record_and_its_tensors_tell_the_same_pairs(ranks: list[int | None]) -> None:
    group = Group("q", tuple("abcde"[: len(ranks)]), tuple(ranks))
    placed = tensor([[-1 if rank is None else rank for rank in ranks]])
    scores = RankedScores.of(torch.zeros(1, len(ranks)), tensor([0.0]), ranks=placed)
    expected = {(c.better, c.worse, c.tied) for c in group.comparisons}
    assert {(b, w, t) for _, b, w, t in found(comparisons(scores, ties=True))} == expected


def test_predictions_are_joined_field_by_field() -> None:
    parts = [
        Prediction(tensor([1.0]), dimensions={"a": tensor([2.0])}),
        Prediction(tensor([3.0]), dimensions={"a": tensor([4.0])}),
    ]
    whole = concatenated(parts)
    assert (whole.reward.tolist(), whole.dimensions["a"].tolist(), whole.variance) == ([1, 3], [2, 4], None)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_part_that_abstains_nowhere_is_joined_with_one_that_does(order: list[int]) -> None:
    parts = [Prediction(tensor([1.0, 2.0])), Prediction(tensor([0.0]), abstained=tensor([True]))]
    whole = concatenated([parts[place] for place in order])
    assert whole.abstained is not None
    assert whole.abstained.tolist() == [[False, False, True], [True, False, False]][order[0]]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("variance", {"variance": tensor([1.0])}),
        ("dimensions", {"dimensions": {"a": tensor([1.0])}}),
        ("each", {"each": (Prediction(tensor([1.0])),)}),
        ("shares", {"shares": True}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_field_that_some_parts_lack_is_named(name: str, given: dict[str, Any], first: bool) -> None:
    parts = [Prediction(tensor([1.0]), **given), Prediction(tensor([1.0]))]
    with pytest.raises(RunError, match=f"some have another `{name}`, or none"):
        concatenated(parts if first else parts[::-1])
