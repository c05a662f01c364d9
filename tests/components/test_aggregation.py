"""Aggregations: worked by hand, and blind to the order of members and responses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.components.aggregation import (
    Consistent,
    Expert,
    Fixed,
    Mean,
    Median,
    UncertaintyWeighted,
    Vote,
    Weighted,
    WorstCase,
    register_aggregation,
)
from rlhf_plugins.contract.records import MemberScores
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.recipe.options import adapter, options

AGGREGATIONS = [Mean(), Weighted(3.0), Expert(3.0), Median(), WorstCase(), UncertaintyWeighted(), Consistent(), Vote()]
SMOOTH = [aggregation for aggregation in AGGREGATIONS if not isinstance(aggregation, Vote)]
every = pytest.mark.parametrize("aggregation", AGGREGATIONS, ids=lambda aggregation: type(aggregation).__name__)
smooth = pytest.mark.parametrize("aggregation", SMOOTH, ids=lambda aggregation: type(aggregation).__name__)
seeds = given(seed=st.integers(0, 10_000))


def members(rewards: list[list[float]], accuracy: list[float] | None = None, group: Any = None) -> MemberScores:
    count, size = len(rewards), len(rewards[0])
    return MemberScores(tensor(rewards), tensor(accuracy or [0.5] * count), tensor(group or [0] * size))


def random_members(seed: int, count: int = 5) -> MemberScores:
    """Of 9 responses, with ties."""
    draw = torch.Generator().manual_seed(seed)
    rewards = torch.randint(-3, 4, (count, 9), generator=draw).double()
    return MemberScores(rewards, torch.rand(count, generator=draw), torch.randint(0, 4, (9,), generator=draw))


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        (Mean(), [4.0, 1.0]),
        (Weighted(0.0), [4.0, 1.0]),
        (Median(), [2.0, 1.0]),
        (WorstCase(), [1.0, 1.0]),
        (UncertaintyWeighted(0.0), [4.0, 1.0]),
        (UncertaintyWeighted(0.5), [4 - 0.5 * 38 / 3, 1.0]),  # deviations -3, -2, 5: squares 9 + 4 + 25 = 38, over 3
    ],
)
def test_by_hand(aggregation: Any, expected: list[float]) -> None:
    assert_close(aggregation(members([[1.0, 1.0], [9.0, 1.0], [2.0, 1.0]])), tensor(expected))


def test_weights_follow_accuracy() -> None:
    found = Weighted(10.0)(members([[1.0], [5.0]], accuracy=[0.6, 0.6 + math.log(3) / 10]))
    assert_close(found, tensor([4.0]))  # weights 1 : 3; (1 + 15) / 4


def test_a_member_counts_where_it_is_good() -> None:
    by_topic = tensor([[0.9, 0.6], [0.9 - math.log(3) / 10, 0.6 + math.log(3) / 10]])
    found = Expert(10.0)(replace(members([[1.0, 1.0], [5.0, 5.0]]), topic_accuracy=by_topic))
    assert_close(found, tensor([2.0, 4.0]))  # weights 3 : 1, then 1 : 3
    accuracy = [0.6, 0.6 + math.log(3) / 10]
    assert_close(Expert(10.0)(members([[1.0], [5.0]], accuracy)), tensor([4.0]))  # no topic is known


def test_fixed_weights_are_numpys_average() -> None:
    rewards = [[1.0, -2.0], [9.0, 0.5], [2.0, 4.0]]
    found = Fixed([0.5, 0.3, 0.2])(members(rewards))
    assert_close(found, tensor(np.average(rewards, axis=0, weights=[0.5, 0.3, 0.2])).float())
    assert_close(found, tensor([3.6, -0.05]))
    assert_close(Fixed([5.0, 3.0, 2.0])(members(rewards)), found)
    assert_close(Fixed([0.5, 0.3, 0.2])(members(rewards[:2])), tensor([4.0, -8.5 / 8]))  # of 5/8 and 3/8
    with pytest.raises(RunError, match="2 weights for 3 members"):
        Fixed([0.5, 0.5])(members(rewards))


@pytest.mark.parametrize(
    ("kind", "spec"), [("stage", {"use": "reward_ensemble"}), ("reward_head", {"use": "ensemble", "members": 4})]
)
def test_weights_that_are_not_one_per_member_are_refused(kind: str, spec: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match="aggregation: 3 weights for 4 members"):
        component(kind, {**spec, "aggregation": {"use": "fixed", "weights": [0.5, 0.3, 0.2]}})


def test_a_member_far_from_the_others_counts_little() -> None:
    # the median is 2, the distances 1, 7 and 0 of mean 8/3: weights e^-.375 : e^-2.625 : 1
    weights = [math.exp(-3 / 8), math.exp(-21 / 8), 1.0]
    expected = (weights[0] * 1 + weights[1] * 9 + weights[2] * 2) / sum(weights)
    assert_close(Consistent()(members([[1.0], [9.0], [2.0]])), tensor([expected]))
    assert_close(Consistent(0.0)(members([[1.0], [9.0], [2.0]])), tensor([4.0]))
    assert_close(Consistent()(members([[1.0], [9.0]])), tensor([5.0]))


def test_an_even_number_of_members_has_two_in_the_middle() -> None:
    assert Median()(members([[1.0], [9.0], [2.0], [4.0]])).tolist() == [3.0]


def test_of_a_pair_a_vote_is_the_share_of_members() -> None:
    found = Vote()(members([[1.0, 0.0], [3.0, 2.0], [0.0, 90.0], [5.0, 5.0]]))
    assert found.tolist() == [0.625, 0.375]  # two for, one against, one of two minds


def test_a_vote_of_three_by_hand() -> None:
    found = Vote()(members([[3.0, 2.0, 1.0], [1.0, 1.0, 0.0]]))
    # the first member's shares are 2/2, 1/2, 0/2; the second's 1.5/2, 1.5/2, 0
    assert found.tolist() == [0.875, 0.625, 0.0]


def test_votes_are_cast_among_siblings_alone() -> None:
    found = Vote()(members([[1.0, 100.0, 0.0, 50.0, 7.0]], group=[3, 8, 3, 8, 5]))
    assert found.tolist() == [1.0, 1.0, 0.0, 0.0, 0.5]  # the last has no siblings


def test_votes_see_no_scale_and_show_what_is_no_number() -> None:
    assert Vote()(members([[math.inf, -math.inf], [2.0, 1.0]])).tolist() == [1.0, 0.0]
    assert Vote()(members([[math.inf, math.inf]])).tolist() == [0.5, 0.5]
    first, second = Vote()(members([[math.nan, 1.0], [2.0, 1.0]])).tolist()
    assert math.isnan(first)
    assert second == 0.0


@smooth
def test_a_reward_that_is_no_number_stays_visible(aggregation: Any) -> None:
    found = aggregation(members([[math.nan, 1.0], [2.0, 1.0], [3.0, 1.0]]))
    assert math.isnan(found[0])
    assert found[1] == 1.0


@every
@given(seed=st.integers(0, 10_000), order=st.permutations(range(5)))
def test_the_order_of_members_never_counts(aggregation: Any, seed: int, order: list[int]) -> None:
    members = random_members(seed)
    shuffled = MemberScores(members.rewards[order], members.accuracy[order], members.group)
    assert_close(aggregation(shuffled), aggregation(members))


@every
@given(seed=st.integers(0, 10_000), order=st.permutations(range(9)))
def test_the_order_of_responses_never_counts(aggregation: Any, seed: int, order: list[int]) -> None:
    members = random_members(seed)
    shuffled = MemberScores(members.rewards[:, order], members.accuracy, members.group[order])
    assert_close(aggregation(shuffled), aggregation(members)[order])


@smooth
@seeds
def test_one_member_is_believed_and_so_are_many_that_agree(aggregation: Any, seed: int) -> None:
    one = random_members(seed, count=1)
    assert_close(aggregation(one), one.rewards[0])
    many = MemberScores(one.rewards.expand(4, 9), torch.arange(4.0), one.group)
    assert_close(aggregation(many), one.rewards[0])


@smooth
@seeds
def test_a_shift_of_all_rewards_shifts_the_aggregate(aggregation: Any, seed: int) -> None:
    members = random_members(seed)
    shifted = MemberScores(members.rewards + 7, members.accuracy, members.group)
    assert_close(aggregation(shifted), aggregation(members) + 7)


@seeds
def test_the_cautious_never_exceed_the_mean(seed: int) -> None:
    members = random_members(seed)
    assert (WorstCase()(members) <= Mean()(members)).all()
    assert (UncertaintyWeighted()(members) <= Mean()(members)).all()


@seeds
def test_votes_of_siblings_average_one_half_and_ignore_scales(seed: int) -> None:
    members = random_members(seed)
    found = Vote()(members)
    for group in members.group.unique():
        assert found[members.group == group].mean().item() == pytest.approx(0.5)
    scales = torch.arange(1, 6).unsqueeze(1)
    assert_close(Vote()(MemberScores(members.rewards * scales + scales, members.accuracy, members.group)), found)


@smooth
def test_gradient(aggregation: Any) -> None:
    rewards = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    accuracy, group = torch.tensor([0.5, 0.6, 0.9], dtype=torch.float64), torch.arange(4)

    def aggregate(values: Tensor) -> Tensor:
        return aggregation(MemberScores(values, accuracy, group))

    assert torch.autograd.gradcheck(aggregate, rewards)


@every
@pytest.mark.parametrize("size", [1e15, -1e15])
def test_extreme_rewards_stay_finite_and_keep_their_type(aggregation: Any, size: float) -> None:
    found = aggregation(members([[size, 0.0], [-size, 0.0], [size, 0.0]], accuracy=[0.0, 1.0, 1.0]))
    assert found.isfinite().all()
    assert found.dtype == torch.float32
    assert found.shape == (2,)


@pytest.mark.parametrize(("aggregation", "option"), [(Weighted, "alpha"), (UncertaintyWeighted, "coef")])
def test_negative_options_are_refused(aggregation: type, option: str) -> None:
    with pytest.raises(ValidationError):
        adapter(options(aggregation)[option].annotation).validate_python(-0.1)


def test_names_of_the_recipe() -> None:
    assert register_aggregation() == {
        "consistent": Consistent,
        "expert": Expert,
        "fixed": Fixed,
        "mean": Mean,
        "weighted": Weighted,
        "median": Median,
        "worst_case": WorstCase,
        "uncertainty_weighted": UncertaintyWeighted,
        "vote": Vote,
    }
