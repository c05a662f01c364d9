"""What holds of every bundled reward loss: padding, order and batch mates never count, and extremes stay finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from rlhf_plugins.arithmetic.ranking import map_tensors, per_group
from rlhf_plugins.components import reward_loss, reward_loss_composed
from rlhf_plugins.contract.records import Prediction, RankedScores

GROUPS, K = 5, 4
BT, PL = reward_loss.BradleyTerry(), reward_loss.PlackettLuce(ties="split")
DIMENSIONS = ["a", "b"]
OPTIONS: dict[str, dict[str, Any]] = {
    "sum": {"losses": (BT, PL), "weights": [1.0, 0.5]},
    "weighted": {"loss": BT, "by": "difficulty"},
    "multi_task": {"dimensions": DIMENSIONS, "losses": (BT, reward_loss.Regression())},
    "multi_task_uncertainty": {"dimensions": DIMENSIONS, "losses": (reward_loss.TiesDavidson(),)},
    "plackett_luce": {"ties": "split", "unplaced": "last"},
}
NAMES = reward_loss.register_reward_loss() | reward_loss_composed.register_reward_loss()
LOSSES = {name: cls(**OPTIONS.get(name, {})) for name, cls in NAMES.items()}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
alone = pytest.mark.parametrize("loss", [LOSSES[name] for name in LOSSES if name != "contrastive"])
seeds = st.integers(0, 10_000)
some = settings(max_examples=10)  # of each loss


def judged(x: Tensor, seed: int) -> RankedScores:
    """Groups whose prediction is made of x (groups, K); judged at random, with ties, gaps and padding."""
    draw = torch.Generator().manual_seed(seed)
    size = x.shape
    present = torch.arange(K) < torch.randint(2, K + 1, (size[0], 1), generator=draw)
    ranks = torch.randint(-1, 3, size, generator=draw).masked_fill(~present, -1)
    ratings = {name: torch.randint(1, 4, size, generator=draw).to(x) for name in DIMENSIONS}
    missing = {name: torch.rand(size, generator=draw) < 0.3 for name in DIMENSIONS}
    ratings = {name: values.masked_fill(missing[name], torch.nan) for name, values in ratings.items()}
    margin, weight = torch.rand(2, size[0], generator=draw).to(x)
    ratings["label"] = torch.randint(0, 2, size, generator=draw).to(x)
    return replace(
        RankedScores.of(x, margin, weight=weight, ranks=ranks, present=present, ratings=ratings),
        prediction=predicted(x),
    )


def predicted(x: Tensor) -> Prediction:
    offsets = torch.tensor([-0.5, 0.1, 0.7]).to(x)
    return Prediction(
        x,
        variance=x.sigmoid() + 0.1,
        dimensions={"a": x, "b": 1 - x / 2},
        quantiles=x.unsqueeze(-1) + offsets,
        features=torch.stack([x, torch.ones_like(x), x / 3 - 1], -1),
    )


def random_x(seed: int) -> Tensor:
    return torch.randn(GROUPS, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def applied(loss: Any) -> Callable[[RankedScores], Tensor]:
    built = loss.build().double() if hasattr(loss, "build") else loss
    return lambda scores: per_group(built, scores)


def gradient(loss: Any, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    losses = applied(loss)(judged(x, seed))
    (grad,) = torch.autograd.grad(losses.sum(), x)
    return losses.detach(), grad


@every_loss
@some
@given(seed=seeds, garbage=st.sampled_from([1e9, -1e9, 0.0]))
def test_padding_never_counts(loss: Any, seed: int, garbage: float) -> None:
    x = random_x(seed)
    padding = ~judged(x, seed).present
    losses, grad = gradient(loss, x, seed)
    again, grad_again = gradient(loss, x.masked_fill(padding, garbage), seed)
    assert_close(again, losses, rtol=1e-12, atol=1e-12)
    assert_close(grad_again, grad, rtol=1e-12, atol=1e-12)
    assert (grad_again[padding] == 0).all()


@every_loss
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf])
def test_padding_may_hold_anything(loss: Any, garbage: float) -> None:
    x = random_x(0)
    present = judged(x, 0).present
    losses, grad = gradient(loss, x, 0)
    again, grad_again = gradient(loss, x.masked_fill(~present, garbage), 0)
    assert_close(again, losses, rtol=1e-12, atol=1e-12)
    assert_close(grad_again[present], grad[present], rtol=1e-12, atol=1e-12)


@every_loss
@some
@given(seed=seeds, order=st.permutations(range(K)))
def test_the_order_of_the_responses_never_counts(loss: Any, seed: int, order: list[int]) -> None:
    scores = judged(random_x(seed), seed)
    moved = map_tensors(scores, lambda values: values if values.dim() == 1 else values[:, order])
    moved = replace(moved, prediction=map_tensors(scores.prediction, lambda values: values[:, order]))
    assert_close(applied(loss)(moved), applied(loss)(scores), rtol=1e-9, atol=1e-9)


@every_loss
@some
@given(seed=seeds, order=st.permutations(range(GROUPS)))
def test_the_order_of_the_groups_never_counts(loss: Any, seed: int, order: list[int]) -> None:
    scores = judged(random_x(seed), seed)
    assert_close(applied(loss)(rows(scores, order)), applied(loss)(scores)[order], rtol=1e-9, atol=1e-9)


@alone
@some
@given(seed=seeds)
def test_batch_mates_never_count(loss: Any, seed: int) -> None:
    scores = judged(random_x(seed), seed)
    assert not getattr(loss, "uses_batch_mates", False)
    assert_close(applied(loss)(rows(scores, [2])), applied(loss)(scores)[[2]], rtol=1e-12, atol=1e-12)


def rows(scores: RankedScores, places: list[int]) -> RankedScores:
    some = map_tensors(scores, lambda values: values[places])
    return replace(some, prediction=map_tensors(scores.prediction, lambda values: values[places]))


def test_contrastive_says_that_it_depends_on_batch_mates() -> None:
    scores = judged(random_x(0), 0)
    loss = applied(LOSSES["contrastive"])
    assert LOSSES["contrastive"].uses_batch_mates
    assert (loss(rows(scores, [2])) == 0).all()
    assert loss(scores).sum() > 0


@every_loss
@pytest.mark.parametrize("seed", [0, 1])
def test_gradient(loss: Any, seed: int) -> None:
    x = random_x(seed).requires_grad_()
    if getattr(loss, "by", "") == "difficulty":
        loss = replace(loss, by="weight")  # a weight that is held constant is no derivative
    assert torch.autograd.gradcheck(lambda x: applied(loss)(judged(x, seed)), x)


@every_loss
@pytest.mark.parametrize("scale", [1e4, -1e4, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_scores_stay_finite(loss: Any, scale: float, dtype: torch.dtype) -> None:
    x = (random_x(3).sign() * scale).to(dtype)
    losses, grad = gradient(loss, x, 3)
    assert losses.isfinite().all()
    assert grad.isfinite().all()


@every_loss
def test_a_batch_of_which_nothing_is_known_costs_nothing_and_can_be_learned_from(loss: Any) -> None:
    x = random_x(0).requires_grad_()
    scores = judged(x, 0)
    nothing = {name: torch.full_like(x, torch.nan) for name in scores.ratings}
    losses = applied(loss)(replace(scores, ranks=torch.full((GROUPS, K), -1), ratings=nothing))
    assert losses.shape == (GROUPS,)
    assert (losses == 0).all()
    assert losses.requires_grad
