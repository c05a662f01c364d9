"""Losses made of other losses: sums by hand, judgements of single dimensions, and weights that are learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import e, log, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn, tensor
from torch.testing import assert_close

from rlhf_plugins.arithmetic.ranking import per_group
from rlhf_plugins.components.reward_loss import (
    BradleyTerry,
    BradleyTerryMargin,
    Centering,
    Contrastive,
    PlackettLuce,
    Regression,
    Thurstone,
    TiesDavidson,
)
from rlhf_plugins.components.reward_loss_composed import (
    MultiTask,
    MultiTaskUncertainty,
    Sum,
    Weighted,
    register_reward_loss,
)
from rlhf_plugins.contract.records import Compared, Prediction, RankedScores
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.errors import DataError, PluginError, RunError
from rlhf_plugins.recipe.assemble import component, spec

PAIR = RankedScores.of(tensor([[2.0, 0.0]]), tensor([3.0]), weight=tensor([0.5]))
ONE = torch.ones(1)
BT = 0.1269280  # log(1 + e^-2)
TURNED = 2.1269280  # log(1 + e^2)


def tasks(first: list[float], second: list[float], **judged: Any) -> RankedScores:
    """A group of which the head's `a` says 2, 0 and `b` 0, 2, rated as given; its ranks say 0, 1."""
    said = {"a": tensor([[2.0, 0.0]]), "b": tensor([[0.0, 2.0]])}
    prediction = Prediction(torch.zeros(1, 2), variance=torch.ones(1, 2), dimensions=said)
    ratings = {"a": tensor([first]), "b": tensor([second])}
    return RankedScores.of(torch.zeros(1, 2), tensor([0.0]), ratings=ratings, prediction=prediction, **judged)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Weighted(loss=BradleyTerry()), 0.5 * BT),
        (Weighted(loss=BradleyTerry(), by="margin"), 3 * BT),
        (Weighted(loss=BradleyTerry(), by="difficulty"), 0.1192029 * BT),  # sigmoid(-2)
        (Weighted(loss=Weighted(loss=BradleyTerry()), by="margin"), 1.5 * BT),
        (Sum(weights=[2.0, 0.1], losses=(BradleyTerry(), Centering())), 2 * BT + 0.1 * 4),
        (Sum(weights=[1.0, 1.0], losses=(Weighted(loss=BradleyTerry()), PlackettLuce())), 1.5 * BT),
        (Weighted(loss=Sum(weights=[1.0, 1.0], losses=(BradleyTerry(), Centering())), by="margin"), 3 * (BT + 4)),
    ],
)
def test_by_hand(loss: Any, expected: float) -> None:
    assert_close(per_group(loss, PAIR), tensor([expected]))
    assert_close(per_group(loss.build(), PAIR), tensor([expected]))


@pytest.mark.parametrize(("margin", "weight"), [(0.0, 1.0), (0.5, 0.5)])
def test_a_row_without_a_margin_has_the_weight_one(margin: float, weight: float) -> None:
    found = Weighted(loss=BradleyTerry(), by="margin")(replace(PAIR, margin=tensor([margin])))
    assert_close(found, tensor([weight * BT]))


def test_pairs_of_a_group_keep_their_own_weights() -> None:
    one, other = tensor([0, 0]), tensor([False, False])
    weight, certain = tensor([0.75, 0.25]), torch.ones(2)
    compared = Compared(one, tensor([0, 1]), tensor([1, 0]), other, torch.zeros(2), weight, certain)
    found = per_group(Weighted(loss=BradleyTerry()), replace(PAIR, compared=compared))
    assert_close(found, tensor([(0.75 * BT + 0.25 * TURNED) / 2]))


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("weight", (0.75 + 0.25) / 2),  # the tied comparison counts nothing
        ("margin", (3.0 + 1.0) / 2),  # 1 where there is no margin
        ("difficulty", (0.1192029 + 0.8807971) / 2),  # sigmoid(-2), sigmoid(2)
    ],
)
def test_a_whole_group_has_the_mean_of_its_comparisons(by: Any, expected: float) -> None:
    three, tied = torch.zeros(3).long(), tensor([False, False, True])
    numbers = tensor([3.0, 0.0, 9.0]), tensor([0.75, 0.25, 9.0]), tensor([1.0, 1.0, 0.5])
    compared = Compared(three, tensor([0, 1, 0]), tensor([1, 0, 1]), tied, *numbers)
    scores = replace(PAIR, weight=tensor([7.0]), margin=tensor([8.0]), compared=compared)
    assert_close(Weighted(loss=PlackettLuce(), by=by)(scores), tensor([expected * BT]))


def test_a_whole_group_without_a_comparison_has_its_own_weight_and_margin() -> None:
    one = Compared(tensor([1]), tensor([0]), tensor([1]), tensor([False]), tensor([2.0]), tensor([0.25]), ONE)
    scores = RankedScores.of(tensor([[2.0, 0.0]] * 2), tensor([3.0, 3.0]), weight=tensor([0.5, 0.5]), compared=one)
    assert_close(Weighted(loss=PlackettLuce())(scores), tensor([0.5, 0.25]) * BT)
    assert_close(Weighted(loss=PlackettLuce(), by="margin")(scores), tensor([3.0, 2.0]) * BT)
    ranked = RankedScores.of(
        torch.zeros(1, 3), tensor([3.0]), weight=tensor([0.5])
    )  # three pairs, all of its own weight
    assert_close(Weighted(loss=PlackettLuce())(ranked), tensor([0.5 * log(6)]))  # log 3!


def test_difficulty_is_held_constant() -> None:
    scores = tensor([[2.0, 0.0]], requires_grad=True)
    Weighted(loss=BradleyTerry(), by="difficulty")(replace(PAIR, scores=scores)).sum().backward()
    assert_close(scores.grad, tensor([[-(0.1192029**2), 0.1192029**2]]))  # sigmoid(-2) d(-log sigmoid)


def test_difficulty_of_ties_and_of_whole_groups() -> None:
    tied = Weighted(loss=TiesDavidson(1.0), by="difficulty")
    equal = RankedScores.of(
        tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]), torch.zeros(3), ranks=torch.zeros(3, 2).long()
    )
    weight = tied(equal) / TiesDavidson(1.0)(equal)
    assert_close(weight, tensor([0.0, 0.7615942, 0.7615942]))  # tanh(1)
    assert_close(Weighted(loss=PlackettLuce(), by="difficulty")(PAIR), tensor([0.1192029 * BT]))
    alone = replace(tasks([1.0, 1.0], [1.0, 1.0]), ranks=tensor([[-1, -1]]))  # rated 1, predicted 0
    assert_close(Weighted(loss=Regression(), by="difficulty")(replace(alone, prediction=None)), tensor([1.0]))


@pytest.mark.parametrize(
    ("part", "whole", "ties", "mates"),
    [
        (BradleyTerry(), False, False, False),
        (TiesDavidson(), False, True, False),
        (PlackettLuce(), True, False, False),
        (Contrastive(), True, False, True),
        (Weighted(loss=Contrastive()), True, False, True),
    ],
)
def test_a_weighted_loss_is_given_what_its_part_is(part: Any, whole: bool, ties: bool, mates: bool) -> None:
    for loss in (Weighted(loss=part), Weighted(loss=part).build()):
        assert (loss.whole_groups, loss.takes_ties, loss.uses_batch_mates) == (whole, ties, mates)
    assert Sum(weights=[1.0, 1.0], losses=(BradleyTerry(), part)).uses_batch_mates == mates


def test_a_group_is_usable_if_a_part_can_use_it() -> None:
    rated, compared = Group("", ("a", "b"), ratings={"a": (1.0, None)}), Group("", ("a", "b"), ranks=(0, 1))
    both = Sum(weights=[1.0, 1.0], losses=(Weighted(loss=PlackettLuce()), Regression()))
    assert [both.learns_from(group) for group in (rated, compared, Group("", ("a", "b")))] == [True, True, False]
    assert both.needs == {"ranks", "ratings"}
    tasks = MultiTask(dimensions=["a"], losses=(PlackettLuce(),))  # which ratings rank for
    assert [tasks.learns_from(group) for group in (rated, compared)] == [True, True]
    assert tasks.needs == frozenset()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Sum(weights=[1.0, 2.0], losses=(BradleyTerry(),)),
            "weights: 2 numbers for 1 losses",
        ),
        (lambda: Sum(weights=[], losses=()), "losses: at least one"),
        (
            lambda: MultiTask(dimensions=["a", "b", "c"], losses=(BradleyTerry(),) * 2),
            "2 losses for 3 dimensions: give one, or",
        ),
        (
            lambda: MultiTask(dimensions=["a"], weights=[1.0, 2.0], losses=(BradleyTerry(),)),
            "2 weights for 1 dimensions",
        ),
        (lambda: MultiTask(dimensions=["a", "a"], losses=(BradleyTerry(),)), r"each once; got \['a', 'a'\]"),
        (lambda: MultiTaskUncertainty(dimensions=[], losses=(BradleyTerry(),)), "at least one"),
    ],
)
def test_options_that_do_not_fit_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_weight_is_not_negative() -> None:
    with pytest.raises(PluginError, match="sum.weights: .*greater than or equal to 0|weights: .*greater than or equal"):
        component("reward_loss", {"use": "sum", "weights": [1.0, -1.0]})


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([5.0, 1.0], [5.0, 1.0], (BT, TURNED)),  # both rate the first higher, b predicts it lower
        ([1.0, 5.0], [1.0, 5.0], (TURNED, BT)),
        ([3.0, 3.0], [1.0, 5.0], (0.0, BT)),  # equal ratings tie
        ([nan, 5.0], [1.0, 5.0], (0.0, BT)),  # a missing rating is not placed
        ([nan, nan], [1.0, 5.0], (BT, BT)),  # nobody rated a: the group's own ranks
    ],
)
def test_a_task_is_judged_by_its_own_ratings(first: list[float], second: list[float], expected: Any) -> None:
    loss = MultiTask(dimensions=["a", "b"], weights=[1.0, 10.0], losses=(BradleyTerry(),))
    assert_close(loss(tasks(first, second)), tensor([expected[0] + 10 * expected[1]]))


def test_a_loss_for_each_task() -> None:
    loss = MultiTask(dimensions=["a", "b"], losses=(BradleyTerry(), Regression()))
    assert_close(loss(tasks([5.0, 1.0], [3.0, 1.0])), tensor([BT + (9 + 1) / 2]))  # b says 0, 2 for 3, 1
    ranking = MultiTask(dimensions=["a"], losses=(PlackettLuce(),))
    assert_close(ranking(tasks([1.0, 5.0], [nan, nan])), tensor([TURNED]))
    assert_close(ranking(tasks([nan, nan], [1.0, 5.0])), tensor([BT]))


@pytest.mark.parametrize("rated", [{}, {"ranks": tensor([[0, 0]])}])
def test_a_tie_of_a_task_is_known_to_a_loss_of_ties(rated: dict[str, Tensor]) -> None:
    loss = MultiTask(dimensions=["a"], losses=(TiesDavidson(nu=1.0),))
    rating = nan if rated else 3.0  # equal ratings, or none and a tie of the whole
    assert_close(loss(tasks([rating, rating], [1.0, 5.0], **rated)), tensor([log(e + 1 / e + 1)]))


def test_a_task_compares_the_features_that_the_head_read() -> None:
    features = tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, -1.0]]])
    prediction = Prediction(torch.zeros(2, 2), dimensions={"a": torch.zeros(2, 2)}, features=features)
    plain = RankedScores.of(torch.zeros(2, 2), torch.zeros(2), ranks=tensor([[1, 0], [0, 1]]), prediction=prediction)
    rated = replace(plain, ranks=tensor([[0, 1], [0, 1]]), ratings={"a": tensor([[1.0, 5.0], [2.0, 1.0]])})
    assert_close(MultiTask(dimensions=["a"], losses=(Contrastive(),))(rated), Contrastive()(plain))


def test_the_gap_of_the_ratings_is_the_margin() -> None:
    loss = MultiTask(dimensions=["a"], losses=(BradleyTerryMargin(),))
    assert_close(loss(tasks([3.5, 2.0], [nan, nan])), tensor([log(1 + 2.718281828**-0.5)]))


def test_a_task_without_ratings_keeps_the_comparisons() -> None:
    said = Compared(tensor([0]), tensor([1]), tensor([0]), tensor([False]), tensor([0.0]), tensor([1.0]), ONE)
    loss = MultiTask(dimensions=["a", "b"], weights=[1.0, 0.0], losses=(BradleyTerry(),))
    assert_close(loss(replace(tasks([nan, nan], [1.0, 5.0]), compared=said)), tensor([TURNED]))
    assert_close(loss(replace(tasks([nan, nan], [1.0, 5.0]), compared=said, ratings={})), tensor([TURNED]))


def test_what_is_said_of_the_reward_is_not_said_of_a_dimension() -> None:
    with pytest.raises(RunError, match="predicts no variance"):
        MultiTask(dimensions=["a"], losses=(Thurstone(),))(tasks([1.0, 5.0], [1.0, 5.0]))
    with pytest.raises(DataError, match="hold no ratings"):
        MultiTask(dimensions=["a"], losses=(Regression(),))(replace(tasks([1.0, 5.0], [1.0, 5.0]), ratings={}))


@pytest.mark.parametrize("prediction", [None, Prediction(torch.zeros(1, 2), dimensions={"helpful": torch.zeros(1, 2)})])
def test_a_dimension_that_no_head_predicts_is_refused(prediction: Prediction | None) -> None:
    with pytest.raises(RunError, match=r"no dimension 'helpfull': use one that does, such as multi \((did you|known)"):
        MultiTask(dimensions=["helpfull"], losses=(BradleyTerry(),))(replace(PAIR, prediction=prediction))


def test_learned_weights_by_hand() -> None:
    module = MultiTaskUncertainty(dimensions=["a", "b"], losses=(BradleyTerry(),)).build()
    scores = tasks([5.0, 1.0], [5.0, 1.0])
    assert_close(module(scores), tensor([BT + TURNED]))  # s = 0
    with torch.no_grad():
        next(module.parameters()).copy_(tensor([log(2), log(4)]))
    assert_close(module(scores), tensor([BT / 2 + TURNED / 4 + log(2) + log(4)]))


def test_learned_weights_end_at_the_losses() -> None:
    module = MultiTaskUncertainty(dimensions=["a", "b"], losses=(BradleyTerry(),)).build()
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module(tasks([5.0, 1.0], [5.0, 1.0])).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert_close(next(module.parameters()).detach().exp(), tensor([BT, TURNED]), rtol=1e-3, atol=1e-3)


def test_a_task_of_which_a_group_tells_nothing_does_not_move_its_weight() -> None:
    module = MultiTaskUncertainty(dimensions=["a", "b"], losses=(BradleyTerry(),)).build()
    module(tasks([5.0, 1.0], [nan, nan], ranks=tensor([[-1, -1]]))).sum().backward()
    assert_close(next(module.parameters()).grad, tensor([1 - BT, 0.0]))


def test_weights_of_parts_are_found_through_every_wrapper() -> None:
    learned: Any = MultiTaskUncertainty(dimensions=["a", "b"], losses=(BradleyTerry(),))
    built = Weighted(loss=Sum(weights=[1.0, 0.5], losses=(learned, Centering()))).build()
    scores = tasks([5.0, 1.0], [5.0, 1.0], weight=tensor([0.5]))
    assert_close(per_group(built, scores), tensor([0.5 * (BT + TURNED)]))  # the reward is 0: nothing to centre
    assert [tuple(weights.shape) for weights in built.parameters()] == [(2,)]
    assert all(isinstance(module, nn.Module) for module in (built, learned.build()))


def test_the_words_of_a_recipe_make_the_parts() -> None:
    words = {"use": "sum", "losses": ["margin", {"use": "weighted", "by": "margin"}], "weights": [1, 0.5]}
    made = component("reward_loss", words)
    assert_close(per_group(made, PAIR), tensor([0.5 * 3 * BT]))
    assert component("reward_loss", spec(made)) == made


def test_names_of_the_recipe() -> None:
    assert register_reward_loss() == {
        "multi_task": MultiTask,
        "multi_task_uncertainty": MultiTaskUncertainty,
        "sum": Sum,
        "weighted": Weighted,
    }
