"""Likelihoods of judgements: probabilities by hand, published estimates recovered, outcomes that sum to one."""

from __future__ import annotations

from itertools import permutations
from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.arithmetic.likelihoods import davidson, plackett_luce, rao_kupper

GAPS = st.floats(-20, 20)
PARAMETERS = st.floats(0.01, 5)


def of_rankings(strengths: Tensor, rankings: list[list[int]]) -> Tensor:
    """log P of partial rankings, best first, of items of these strengths."""
    items = torch.nn.utils.rnn.pad_sequence([tensor(r) for r in rankings], batch_first=True, padding_value=-1)
    ranks = torch.arange(items.shape[1]).expand_as(items)
    return plackett_luce(strengths[items], ranks, items >= 0)


@pytest.mark.parametrize(
    ("ranks", "probability"),
    [
        ([0, 1, 2], 3 / 6 * 2 / 3),
        ([2, 1, 0], 1 / 6 * 2 / 5),
        ([0, -1, -1], 3 / 6),  # unplaced, and behind: the choice of one
        ([1, 0, -1], 2 / 6 * 3 / 4),
        ([0, 0, 1], 3 * 2 / (6 * (6 - 5 / 2))),  # Efron: the second of two sees half of both
        ([0, 0, 0], 3 * 2 * 1 / (6 * 4 * 2)),
        ([1, 0, 1], 2 / 6 * 3 * 1 / (4 * 2)),
        ([-1, -1, -1], 1.0),
    ],
)
def test_rankings_of_strengths_3_2_1(ranks: list[int], probability: float) -> None:
    found = plackett_luce(tensor([[3.0, 2.0, 1.0]]).log(), tensor([ranks]), torch.ones(1, 3, dtype=torch.bool))
    assert_close(found.exp(), tensor([probability]))


def test_choix_log_likelihood() -> None:
    rankings = [[0, 1, 2, 3], [1, 3, 0]]
    found = of_rankings(torch.linspace(1, 2, 4, dtype=torch.float64).log(), rankings).sum()
    assert found.item() == pytest.approx(-5.486092774, abs=1e-8)
    assert of_rankings(torch.zeros(4, dtype=torch.float64), rankings).sum().item() == pytest.approx(-4.9698133)


def test_choix_estimate_from_rankings() -> None:
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -of_rankings(theta, [[0, 1, 2], [3, 2, 0], [1, 3]]).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = tensor([-0.44328117, 0.69506219, -0.67061442, 0.4188334], dtype=torch.float64)
    assert_close(theta.detach() - theta.detach().mean(), expected, atol=1e-4, rtol=0)


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4))
def test_the_rankings_of_four_sum_to_one(scores: list[float]) -> None:
    every = tensor(list(permutations(range(4))))
    row = tensor([scores], dtype=torch.float64).expand(len(every), 4)
    total = plackett_luce(row, every, torch.ones_like(every, dtype=torch.bool)).exp().sum()
    assert total.item() == pytest.approx(1)


def test_rao_kupper_by_hand() -> None:  # strengths 3 and 1, theta 2: 3 / (3 + 2), 3 (4 - 1) / (5 x 7), 1 / (1 + 6)
    gaps = tensor([3.0, 3.0, 1 / 3]).log()
    found = rao_kupper(gaps, tensor([False, True, False]), log(2))
    assert_close(found.exp(), tensor([3 / 5, 9 / 35, 1 / 7]))


def test_davidson_by_hand() -> None:  # strengths 4 and 1, nu 2: weights 4, 2 x sqrt(4), 1
    gaps = tensor([4.0, 4.0, 1 / 4]).log()
    found = davidson(gaps, tensor([False, True, False]), 2.0)
    assert_close(found.exp(), tensor([4 / 9, 4 / 9, 1 / 9]))


@pytest.mark.parametrize("model", [rao_kupper, davidson])
@given(gap=GAPS, parameter=PARAMETERS)
def test_win_loss_and_tie_sum_to_one(model: type, gap: float, parameter: float) -> None:
    gaps = tensor([gap, -gap, gap], dtype=torch.float64)
    total = model(gaps, tensor([False, False, True]), parameter).exp().sum()
    assert total.item() == pytest.approx(1)


@pytest.mark.parametrize("model", [rao_kupper, davidson])
@given(gap=GAPS, parameter=PARAMETERS)
def test_a_tie_has_no_direction(model: type, gap: float, parameter: float) -> None:
    both = model(tensor([gap, -gap], dtype=torch.float64), tensor([True, True]), parameter)
    assert_close(both[0], both[1])


def test_a_wide_threshold_stays_finite() -> None:
    assert_close(rao_kupper(tensor([0.0]), tensor([True]), 1e3), tensor([0.0]), atol=1e-3, rtol=0)
