"""Chi-square DRO by hand and against a solver, and what each robust loss does about a spurious feature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rlhf_robust.chi_square_dro import worst_weights
from rlhf_robust.spurious import CEILING, worst_group
from scipy.optimize import minimize

from rlhf_plugins import RankedScores, component


@pytest.mark.parametrize(
    ("rho", "weights", "loss"),
    [
        (1 / 12, [0.5, 1.0, 1.5], 7 / 3),  # mean 2 + sqrt(2/12 * 2/3)
        (7 / 16, [0.0, 0.75, 2.25], 2.75),  # eta 1.5: (1 + 1/16 + 25/16) / 6 = 7/16
        (1.0, [0.0, 0.0, 3.0], 3.0),  # (1 + 1 + 4) / 6 = 1: the corner
        (9.0, [0.0, 0.0, 3.0], 3.0),
    ],
)
def test_the_worst_weights_of_1_2_3_by_hand(rho: float, weights: list[float], loss: float) -> None:
    losses = torch.tensor([1.0, 2.0, 3.0])
    found = worst_weights(losses, rho)
    assert found.tolist() == pytest.approx(weights, abs=1e-9)
    assert float((found * losses).mean()) == pytest.approx(loss)


def test_equal_losses_weigh_equally() -> None:
    assert worst_weights(torch.ones(4), 0.5).tolist() == [1.0] * 4
    assert worst_weights(torch.tensor([2.0, 2.0, 1.0]), 5.0).tolist() == [1.5, 1.5, 0.0]
    assert worst_weights(torch.tensor([3.0]), 0.5).tolist() == [1.0]


@pytest.mark.parametrize("rho", [0.05, 0.3, 1.0])
def test_no_distribution_in_the_ball_is_worse(rho: float) -> None:
    losses = np.random.default_rng(0).exponential(size=9)
    inside = {"type": "ineq", "fun": lambda q: rho - ((9 * q - 1) ** 2).mean() / 2}
    whole = {"type": "eq", "fun": lambda q: q.sum() - 1}
    solved: Any = minimize(lambda q: -q @ losses, np.full(9, 1 / 9), bounds=[(0, 1)] * 9, constraints=[inside, whole])
    found = worst_weights(torch.tensor(losses), rho).numpy()
    assert found @ losses / 9 == pytest.approx(-solved.fun, abs=1e-5)
    assert ((found - 1) ** 2).mean() / 2 == pytest.approx(rho)


def test_the_mean_of_the_rows_is_the_worst_case_and_its_gradient_that_at_the_weights() -> None:
    gaps = torch.tensor([2.0, 0.0, -1.0], requires_grad=True)
    plain = -torch.nn.functional.logsigmoid(gaps)
    weights = worst_weights(plain.detach(), 0.2).float()
    loss = component("reward_loss", "chi_square_dro", rho=0.2)
    scores = RankedScores.of(torch.stack([gaps, torch.zeros(3)], 1))
    found = loss(scores).mean()
    assert found.item() == pytest.approx(float((weights * plain).mean().detach()))
    (slope,) = torch.autograd.grad(found, gaps)
    torch.testing.assert_close(slope, -weights * torch.sigmoid(-gaps.detach()) / 3)


AGREE = [
    (0.99, 0.17, 0.79),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in ((0.9, 0.51, 0.83), (0.95, 0.37, 0.82))),
]


@pytest.mark.parametrize(("agree", "erm", "robust"), AGREE)
def test_group_dro_unlearns_a_spurious_feature(agree: float, erm: float, robust: float) -> None:
    """x1 alone is right in Phi(1) = 0.841, the ceiling; means over eight data sets of 1,500 rows."""
    plain = worst_group(component("reward_loss", "bradley_terry"), agree, rows=10_000, steps=300)
    loss = component("reward_loss", "group_dro", eta=0.1)
    dro = np.mean([worst_group(loss, agree, 1500, seed, steps=100) for seed in range(8)])
    assert plain == pytest.approx(erm, abs=0.03)
    assert dro == pytest.approx(robust, abs=0.03)
    assert dro <= CEILING


def test_without_groups_the_worst_reweighting_does_not() -> None:
    loss = component("reward_loss", "chi_square_dro", rho=0.5)
    assert worst_group(loss, 0.95, rows=5000) < 0.5
