"""Losses of reward models: published strengths recovered, cases by hand, and what must cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import e, log, nan
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.arithmetic.ranking import per_group
from rlhf_plugins.components.reward_loss import (
    BradleyTerry,
    BradleyTerryMargin,
    Centering,
    Contrastive,
    GaussianNLL,
    LabelCrossEntropy,
    LabelSmoothed,
    Margin,
    PlackettLuce,
    Quantile,
    Regression,
    Thurstone,
    TiesDavidson,
    TiesRaoKupper,
    register_reward_loss,
)
from rlhf_plugins.contract.records import Compared, Prediction, RankedScores
from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.columns import columns_of
from rlhf_plugins.errors import DataError, RunError

Loss = Callable[[RankedScores], Tensor]
OF_GAPS: list[Loss] = [BradleyTerry(), BradleyTerryMargin(), Margin(), LabelSmoothed(), TiesRaoKupper(), TiesDavidson()]
PAIRS = RankedScores.of(tensor([[1.0, 1.0], [3.0, 1.0], [0.0, 1.5]]), tensor([0.0, 1.0, 0.5]))
REWARD = tensor([[1.0, 2.0]])
RATINGS = {"helpful": tensor([[2.0, nan]]), "honest": tensor([[4.0, 3.0]])}  # of mean 3 and 3


def random_scores(seed: int) -> RankedScores:
    draw = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(5, 2, generator=draw, dtype=torch.float64)
    return RankedScores.of(scores, torch.rand(5, generator=draw, dtype=torch.float64))


def rated(**said: Tensor | dict[str, Tensor]) -> RankedScores:
    return RankedScores.of(REWARD, tensor([0.0]), ratings=RATINGS, prediction=Prediction(REWARD, **said))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (BradleyTerry(), [0.6931472, 0.1269280, 1.7014133]),  # log(1 + e^-d) at d = 0, 2, -1.5
        (BradleyTerryMargin(), [0.6931472, 0.3132617, 2.1269280]),  # at d - m = 0, 1, -2
        (Margin(), [1.0, 0.0, 2.5]),  # max(0, 1 - d)
        (Margin(margin=3.0), [3.0, 1.0, 4.5]),
        (LabelSmoothed(0.1), [0.6931472, 0.3269280, 1.5514133]),  # 0.9 log(1 + e^-d) + 0.1 log(1 + e^d)
        (TiesRaoKupper(log(2)), [1.0986123, 0.2395448, 2.2989163]),  # log(1 + 2 e^-d)
        (TiesDavidson(1.0), [1.0986123, 0.4076060, 2.0279758]),  # log(1 + e^-d + e^(-d/2))
        (Centering(), [4.0, 16.0, 2.25]),  # (r + r)^2
    ],
)
def test_by_hand(loss: Loss, expected: list[float]) -> None:
    assert_close(loss(PAIRS), tensor(expected))


def test_of_a_longer_ranking_the_best_and_the_worst_count() -> None:
    ranking = RankedScores.of(tensor([[3.0, 9.0, 9.0, 1.0]]), tensor([0.0]))
    assert_close(BradleyTerry()(ranking), BradleyTerry()(PAIRS)[1:2])


def test_bradley_terry_recovers_published_strengths() -> None:
    # choix, maximum likelihood of the wins 0>1, 0>1, 1>2, 2>0
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    wins = tensor([[0, 1], [0, 1], [1, 2], [2, 0]])
    optimizer = torch.optim.LBFGS([theta], max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = BradleyTerry()(RankedScores.of(theta[wins], torch.zeros(4))).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = tensor([0.419617624, -0.419617624, 0.0], dtype=torch.float64)
    assert_close(theta.detach() - theta.detach().mean(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", [*OF_GAPS, PlackettLuce()])
@given(seed=st.integers(0, 10_000), shift=st.floats(-100, 100))
def test_only_differences_count(loss: Loss, seed: int, shift: float) -> None:
    scores = random_scores(seed)
    assert_close(loss(RankedScores.of(scores.scores + shift, scores.margin)), loss(scores), rtol=1e-9, atol=1e-9)


@given(st.integers(0, 10_000))
def test_a_margin_asks_for_more(seed: int) -> None:
    scores = random_scores(seed)
    assert (BradleyTerryMargin()(scores) >= BradleyTerry()(scores)).all()
    without = RankedScores.of(scores.scores, torch.zeros(5))
    assert_close(BradleyTerryMargin()(without), BradleyTerry()(without), rtol=0, atol=0)


def test_margins_count_row_by_row() -> None:
    some = RankedScores.of(tensor([[2.0, 0.0], [2.0, 0.0]]), tensor([0.0, 1.0]))
    assert_close(BradleyTerryMargin()(some), tensor([0.1269280, 0.3132617]))


@given(st.integers(0, 10_000))
def test_a_pair_and_its_reversal_are_two_sides_of_one_probability(seed: int) -> None:
    scores = random_scores(seed)
    turned = RankedScores.of(scores.scores.flip(1), scores.margin)
    total = (-BradleyTerry()(scores)).exp() + (-BradleyTerry()(turned)).exp()
    assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("loss", [TiesDavidson(0.0), TiesRaoKupper(0.0), LabelSmoothed(0.0)])
@given(seed=st.integers(0, 10_000))
def test_without_ties_or_flips_it_is_bradley_terry_to_the_bit(loss: Loss, seed: int) -> None:
    scores = random_scores(seed)
    assert_close(loss(scores), BradleyTerry()(scores), rtol=0, atol=0)


@pytest.mark.parametrize(("loss", "name"), [(TiesDavidson(0.0), "nu"), (TiesRaoKupper(0.0), "threshold")])
def test_a_tie_that_cannot_be_is_refused(loss: Loss, name: str) -> None:
    with pytest.raises(DataError, match=f"tied, which {name} = 0 makes impossible: set {name} above 0"):
        loss(replace(PAIRS, ranks=tensor([[0, 1], [0, 0], [0, 1]])))


@given(st.integers(0, 10_000))
def test_a_ranking_of_two_is_bradley_terry(seed: int) -> None:
    scores = random_scores(seed)
    assert_close(PlackettLuce()(scores), BradleyTerry()(scores), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "ranks", "probability"),  # of strengths 3, 2, 1 and a response that is not there
    [
        (PlackettLuce(), [0, 1, 2, 3], 3 / 6 * 2 / 3),
        (PlackettLuce(), [1, -1, 0, 0], 1 / 4),
        (PlackettLuce(unplaced="last"), [1, -1, 0, 0], 1 / 6 * 3 / 5),
        (PlackettLuce(), [0, -1, -1, 0], 1.0),
        (PlackettLuce(unplaced="last"), [0, -1, -1, 0], 3 / 6),
        (PlackettLuce(ties="split"), [0, 0, 1, 0], 6 / (6 * 3.5)),
    ],
)
def test_partial_rankings_by_hand(loss: Loss, ranks: list[int], probability: float) -> None:
    present = tensor([[True, True, True, False]])
    scores = RankedScores.of(
        tensor([[3.0, 2.0, 1.0, 9.0]]).log(), tensor([0.0]), ranks=tensor([ranks]), present=present
    )
    assert_close((-loss(scores)).exp(), tensor([probability]))


@pytest.mark.parametrize(
    ("unplaced", "ranks", "probability"),  # of strengths 3, 2, 1 and 4, where the third beat the last and the second
    [
        ("ignored", [-1, -1, -1, -1], 1 / 5 * 1 / 3),
        ("ignored", [0, 1, -1, -1], 3 / 5 * 1 / 5 * 1 / 3),
        ("ignored", [-1, 1, 0, -1], 1 / 3 * 1 / 5),  # the ranking has one of the two pairs already
        ("last", [0, -1, -1, -1], 3 / 10 * 1 / 5 * 1 / 3),
        ("last", [-1, -1, 0, -1], 1 / 10),
    ],
)
def test_judged_pairs_that_a_ranking_does_not_order_count_too(
    unplaced: Any, ranks: list[int], probability: float
) -> None:
    pairs = Compared(*map(tensor, ([0, 0], [2, 2], [3, 1], [False] * 2, [0.0] * 2, [1.0] * 2, [1.0] * 2)))
    scores = RankedScores.of(tensor([[3.0, 2.0, 1.0, 4.0]]).log(), ranks=tensor([ranks]), compared=pairs)
    assert_close((-PlackettLuce(unplaced=unplaced)(scores)).exp(), tensor([probability]))


def test_a_group_of_judged_pairs_alone_is_learned_from() -> None:
    group = Group("q", ("a", "b", "c"), compared=(Comparison(0, 1), Comparison(2, 1, tied=True)))
    assert PlackettLuce().learns_from(group)
    assert "ranks" in columns_of([group])
    assert not PlackettLuce().learns_from(replace(group, compared=group.comparisons[1:]))


def test_a_shared_place_is_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match="share a place, which plackett_luce refuses: set `ties: split`"):
        PlackettLuce()(replace(PAIRS, ranks=tensor([[0, 1], [0, 0], [0, 1]])))


def test_thurstone_by_hand() -> None:  # a gap of 3 over a spread of sqrt(4 + 5): Phi(1) = 0.8413447
    prediction = Prediction(tensor([[4.0, 1.0]]), variance=tensor([[4.0, 5.0]]))
    pair = RankedScores.of(tensor([[4.0, 1.0]]), tensor([0.0]), prediction=prediction)
    assert_close((-Thurstone()(pair)).exp(), tensor([0.8413447]))


@pytest.mark.parametrize(
    ("loss", "said", "expected"),
    [
        (Regression(), {}, (4 + 1) / 2),  # 1 and 2 against 3 and 3
        (Regression("helpful"), {}, 1.0),  # 1 against 2
        (
            Regression(),
            {"dimensions": {"honest": tensor([[4.0, 1.0]]), "helpful": tensor([[1.0, 7.0]])}},
            (0 + 4 + 1) / 3,
        ),
        (Regression("honest"), {"dimensions": {"honest": tensor([[4.0, 1.0]])}}, (0 + 4) / 2),
        (GaussianNLL(), {"variance": tensor([[1.0, 4.0]])}, (0.5 * 4 + 0.5 * (log(4) + 1 / 4)) / 2),
        (GaussianNLL("helpful"), {"variance": tensor([[e, 4.0]])}, 0.5 * (1 + 1 / e)),
        (Quantile("helpful"), {"quantiles": tensor([[[1.0, 5.0], [0.0, 0.0]]])}, (0.25 * 1 + 0.25 * 3) / 2),
        (Quantile(), {"quantiles": tensor([[[2.0, 2.0], [4.0, 5.0]]])}, (0.25 + 0.75 + 0.75 + 0.25 * 2) / 4),
    ],
)
def test_ratings_by_hand(loss: Loss, said: dict[str, Tensor], expected: float) -> None:
    assert_close(loss(rated(**said)), tensor([expected]))


def test_a_group_without_ratings_costs_nothing() -> None:
    unrated = replace(rated(), ratings={"helpful": tensor([[nan, nan]])})
    assert_close(Regression()(unrated), tensor([0.0]))


def test_the_variance_of_what_is_not_rated_may_be_anything() -> None:
    variance = tensor([[1.0, 0.0]], requires_grad=True)
    GaussianNLL("helpful")(rated(variance=variance)).sum().backward()
    assert_close(variance.grad, tensor([[0.0, 0.0]]))  # 1/2 (1 / var - (2 - 1)^2 / var^2) at var = 1


@pytest.mark.parametrize("loss", [Regression(), GaussianNLL(), Quantile()])
def test_data_without_ratings_are_refused(loss: Loss) -> None:
    scores = replace(rated(variance=REWARD, quantiles=REWARD.unsqueeze(2)), ratings={})
    with pytest.raises(DataError, match="the data hold no ratings to predict"):
        loss(scores)


def test_an_unknown_rating_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"no ratings of 'helpfull' \(did you mean helpful\? known: helpful, honest\)"):
        Regression("helpfull")(rated())
    with pytest.raises(DataError, match=r"no ratings of 'harmless' \(known: helpful, honest\)"):
        Regression()(rated(dimensions={"harmless": REWARD}))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Thurstone(), "no variance: thurstone needs a head that predicts it, such as gaussian"),
        (GaussianNLL(), "no variance: gaussian_nll needs a head that predicts it, such as gaussian"),
        (Quantile(), "no quantiles: quantile needs a head that predicts them, such as quantile"),
        (Contrastive(), "no features"),
    ],
)
@pytest.mark.parametrize("prediction", [None, Prediction(REWARD)])
def test_a_head_that_says_too_little_is_refused(loss: Loss, message: str, prediction: Prediction | None) -> None:
    with pytest.raises(RunError, match=message):
        loss(replace(rated(), prediction=prediction))


def contrast(features: list[list[list[float]]], **judged: Tensor) -> RankedScores:
    h = tensor(features)
    return RankedScores.of(h[..., 0], torch.zeros(len(h)), prediction=Prediction(h[..., 0], features=h), **judged)  # type: ignore[arg-type]


def test_contrastive_by_hand() -> None:
    # both anchors see the other at cosine 1 and the rejected at 0 and -1: -log(e / (1 + e + 1/e)), at t = 1
    scores = contrast([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [-3.0, 0.0]]])
    assert_close(Contrastive(1.0)(scores), tensor([0.4076060, 0.4076060]))
    assert_close(Contrastive(0.5)(scores), tensor([log(1 + e**-2 + e**-4)] * 2))


def test_contrastive_takes_the_mean_over_the_other_chosen_and_leaves_out_groups_without_one() -> None:
    # h = (1, 0); h+ at 1 and 0; rejected at -1, -1 and, of the group that is tied, -1 and -1
    groups = [[[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]], [[0.0, 1.0], [-1.0, 0.0]], [[-1.0, 0.0]] * 2]
    scores = contrast(groups, ranks=tensor([[0, 1], [0, 1], [0, 1], [0, 0]]))
    found = Contrastive(1.0)(scores)
    assert_close(found[:2], tensor([log(e + 1 + 5 / e) - 0.5] * 2))
    assert found[3] == 0


def test_contrastive_takes_only_the_best_of_a_ranking_as_chosen() -> None:
    # the middle response, which lies on the other group's best, is a negative; that best is at cosine 0
    scores = contrast([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]])
    assert_close(Contrastive(1.0)(scores), tensor([log(2 + e + 2 / e), log(4 + e)]))


def test_contrastive_takes_only_the_nearest_wrong_responses() -> None:
    # h and h+ at cosine 1; wrong ones at 0 (of its own group) and -1: of the nearest alone -log(e / (e + 1))
    scores = contrast([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [-3.0, 0.0]]])
    assert_close(Contrastive(1.0, hardest=1)(scores), tensor([log(1 + 1 / e)] * 2))
    assert_close(Contrastive(1.0, hardest=2)(scores), Contrastive(1.0)(scores))


def test_contrastive_of_one_group_is_nothing() -> None:
    assert_close(Contrastive()(contrast([[[1.0, 2.0], [3.0, 1.0]]])), tensor([0.0]))


@pytest.mark.parametrize(
    ("cls", "options", "name"),
    [
        (Margin, {"margin": 0}, "margin"),
        (Margin, {"margin": -1.0}, "margin"),
        (Margin, {"margin": "wide"}, "margin"),
        (LabelSmoothed, {"epsilon": 0.5}, "epsilon"),
        (TiesRaoKupper, {"threshold": -0.1}, "threshold"),
        (TiesDavidson, {"nu": -0.1}, "nu"),
        (PlackettLuce, {"ties": "kept"}, "ties"),
        (Contrastive, {"temperature": 0}, "temperature"),
    ],
)
def test_options_out_of_range_are_refused(cls: type, options: dict[str, object], name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        TypeAdapter(cls).validate_python(options)


def test_label_cross_entropy_by_hand() -> None:
    ratings = {"label": tensor([[1.0, nan], [0.0, 1.0]])}
    scores = RankedScores.of(tensor([[log(3), 9.0], [log(3), 0.0]]), ratings=ratings)
    # -log 3/4; and the mean of -log 1/4 and -log 1/2
    assert_close(LabelCrossEntropy()(scores), tensor([log(4 / 3), (log(4) + log(2)) / 2]))
    with pytest.raises(DataError, match="the rating 'label' should be from 0 to 1"):
        LabelCrossEntropy()(replace(scores, ratings={"label": 2 * ratings["label"]}))
    with pytest.raises(DataError, match="the data hold no ratings of 'label'"):
        LabelCrossEntropy()(replace(scores, ratings=RATINGS))


def test_ties_reach_the_losses_that_take_them_alone() -> None:
    tied = RankedScores.of(tensor([[1.0, 1.0]]), tensor([0.0]), ranks=tensor([[0, 0]]))
    assert_close(per_group(TiesDavidson(1.0), tied), tensor([log(3)]))  # 1 of 1 + 1 + 1
    assert_close(per_group(BradleyTerry(), tied), tensor([0.0]))


def test_names_of_the_recipe() -> None:
    assert register_reward_loss() == {
        "bradley_terry": BradleyTerry,
        "bradley_terry_margin": BradleyTerryMargin,
        "centering": Centering,
        "contrastive": Contrastive,
        "gaussian_nll": GaussianNLL,
        "label_cross_entropy": LabelCrossEntropy,
        "label_smoothed": LabelSmoothed,
        "margin": Margin,
        "plackett_luce": PlackettLuce,
        "quantile": Quantile,
        "regression": Regression,
        "thurstone": Thurstone,
        "ties_davidson": TiesDavidson,
        "ties_rao_kupper": TiesRaoKupper,
    }
