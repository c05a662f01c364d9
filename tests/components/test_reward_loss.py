"""Losses of reward models: published strengths recovered, cases by hand, and what must cancel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.components.reward_loss import BradleyTerry, BradleyTerryMargin, Margin, register_reward_loss
from rlhf_plugins.interfaces import RankedScores

Loss = Callable[[RankedScores], Tensor]
LOSSES: list[Loss] = [BradleyTerry(), BradleyTerryMargin(), Margin()]
PAIRS = RankedScores(tensor([[1.0, 1.0], [3.0, 1.0], [0.0, 1.5]]), tensor([0.0, 1.0, 0.5]))


def random_scores(seed: int) -> RankedScores:
    draw = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(5, 2, generator=draw, dtype=torch.float64)
    return RankedScores(scores, torch.rand(5, generator=draw, dtype=torch.float64))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (BradleyTerry(), [0.6931472, 0.1269280, 1.7014133]),  # log(1 + e^-d) at d = 0, 2, -1.5
        (BradleyTerryMargin(), [0.6931472, 0.3132617, 2.1269280]),  # at d - m = 0, 1, -2
        (Margin(), [1.0, 0.0, 2.5]),  # max(0, 1 - d)
        (Margin(margin=3.0), [3.0, 1.0, 4.5]),
    ],
)
def test_by_hand(loss: Loss, expected: list[float]) -> None:
    assert_close(loss(PAIRS), tensor(expected))


def test_of_a_longer_ranking_the_best_and_the_worst_count() -> None:
    ranking = RankedScores(tensor([[3.0, 9.0, 9.0, 1.0]]), tensor([0.0]))
    assert_close(BradleyTerry()(ranking), BradleyTerry()(PAIRS)[1:2])


def test_bradley_terry_recovers_published_strengths() -> None:
    # choix, maximum likelihood of the wins 0>1, 0>1, 1>2, 2>0
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    wins = tensor([[0, 1], [0, 1], [1, 2], [2, 0]])
    optimizer = torch.optim.LBFGS([theta], max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = BradleyTerry()(RankedScores(theta[wins], torch.zeros(4))).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = tensor([0.419617624, -0.419617624, 0.0], dtype=torch.float64)
    assert_close(theta.detach() - theta.detach().mean(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 10_000), shift=st.floats(-100, 100))
def test_only_differences_count(loss: Loss, seed: int, shift: float) -> None:
    scores = random_scores(seed)
    assert_close(loss(RankedScores(scores.scores + shift, scores.margin)), loss(scores), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(5)))
def test_batch_mates_and_their_order_never_count(loss: Loss, seed: int, order: list[int]) -> None:
    pairs = random_scores(seed)
    moved = RankedScores(pairs.scores[order], pairs.margin[order])
    assert_close(loss(moved), loss(pairs)[order], rtol=0, atol=0)
    alone = RankedScores(pairs.scores[2:3], pairs.margin[2:3])
    assert_close(loss(alone), loss(pairs)[2:3], rtol=0, atol=0)


@given(st.integers(0, 10_000))
def test_a_margin_asks_for_more(seed: int) -> None:
    scores = random_scores(seed)
    assert (BradleyTerryMargin()(scores) >= BradleyTerry()(scores)).all()
    without = RankedScores(scores.scores, torch.zeros(5))
    assert_close(BradleyTerryMargin()(without), BradleyTerry()(without), rtol=0, atol=0)


@given(st.integers(0, 10_000))
def test_a_pair_and_its_reversal_are_two_sides_of_one_probability(seed: int) -> None:
    scores = random_scores(seed)
    turned = RankedScores(scores.scores.flip(1), scores.margin)
    total = (-BradleyTerry()(scores)).exp() + (-BradleyTerry()(turned)).exp()
    assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_large_differences_stay_finite(loss: Loss, gap: float) -> None:
    scores = tensor([[gap, 0.0]], requires_grad=True)
    value = loss(RankedScores(scores, tensor([1e3])))
    value.sum().backward()
    assert scores.grad is not None
    assert value.isfinite().all()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient(loss: Loss) -> None:
    pairs = random_scores(0)
    scores = pairs.scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(RankedScores(s, pairs.margin)), scores)


@pytest.mark.parametrize("margin", [0, -1.0, "wide"])
def test_the_hinge_must_be_positive(margin: object) -> None:
    with pytest.raises(ValidationError, match="margin"):
        TypeAdapter(Margin).validate_python({"margin": margin})


def test_names_of_the_recipe() -> None:
    names = {"bradley_terry": BradleyTerry, "bradley_terry_margin": BradleyTerryMargin, "margin": Margin}
    assert register_reward_loss() == names
