"""Losses of tokens and how they are summed: published cases, numbers by hand, gradients, and what masks hide."""

from __future__ import annotations

from math import exp, log, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.registry.registry import registry


def loss(name: str, ratio: float, advantage: float, **options: float) -> float:
    found: Tensor = component("policy_loss", {"use": name, **options})(tensor([[log(ratio)]]), tensor([[advantage]]))
    return found.item()


# Schulman et al. 2017, equation 7: (ratio, advantage, loss) at epsilon 0.2
@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (2.718281828, 1.0, -1.2),  # gain clipped at 1.2
        (0.367879441, 1.0, -0.367879441),  # a loss of probability is not forgiven
        (2.718281828, -1.0, 2.718281828),
        (0.367879441, -1.0, 0.8),  # clipped at 0.8
        (1.1, 3.0, -3.3),  # inside the clip nothing happens
    ],
)
def test_clip_of_published_cases(ratio: float, advantage: float, expected: float) -> None:
    assert loss("clip", ratio, advantage) == pytest.approx(expected)
    assert loss("dual_clip", ratio, advantage) == pytest.approx(expected)  # 2.718 is below its limit of 3
    assert loss("policy_gradient", ratio, advantage) == pytest.approx(-ratio * advantage)


def test_the_clip_has_an_upper_limit_of_its_own() -> None:
    """Yu et al. 2025, equation 10: at epsilon 0.2 and epsilon_high 0.28."""
    assert loss("clip", 2.0, 1.0, epsilon_high=0.28) == pytest.approx(-1.28)
    assert loss("clip", 1.25, 1.0, epsilon_high=0.28) == pytest.approx(-1.25)
    assert loss("clip", 0.5, -1.0, epsilon_high=0.28) == pytest.approx(0.8)


def test_the_dual_clip_limits_what_a_bad_token_costs() -> None:
    assert loss("clip", 10.0, -2.0) == pytest.approx(20.0)
    assert loss("dual_clip", 10.0, -2.0) == pytest.approx(6.0)  # 3 * 2
    assert loss("dual_clip", 10.0, -2.0, limit=4.5) == pytest.approx(9.0)
    assert loss("dual_clip", 10.0, 2.0) == pytest.approx(-2.4)  # the other side as ever


def test_no_gradient_beyond_a_clip() -> None:
    """Ratios 1.65 and 0.61; where there is one it is d(-A e^x) = -A e^x. The dual clip has none at e^2 > 3 either."""
    log_ratio = tensor([[0.5, -0.5, 0.5, -0.5, 2.0]], requires_grad=True)
    advantages = tensor([[1.0, 1.0, -1.0, -1.0, -1.0]])
    expected = {"clip": [0, -exp(-0.5), exp(0.5), 0, exp(2)], "dual_clip": [0, -exp(-0.5), exp(0.5), 0, 0]}
    for name, gradient in expected.items():
        (found,) = torch.autograd.grad(component("policy_loss", name)(log_ratio, advantages).sum(), log_ratio)
        assert found.tolist() == [pytest.approx(gradient)]


def test_advantage_weighted_regression_by_hand() -> None:
    assert loss("advantage_weighted", 0.5, 1.0, beta=0.5) == pytest.approx(exp(2) * log(2))
    assert loss("advantage_weighted", 0.5, 9.0, limit=5.0) == pytest.approx(5 * log(2))  # e^9 is beyond it
    assert loss("advantage_weighted", 0.5, 0.0) == pytest.approx(log(2))  # the supervised loss


@pytest.mark.parametrize("name", sorted({*registry().names("policy_loss")} - {"advantage_weighted"}))
def test_at_ratio_1_every_loss_has_the_policy_gradient(name: str) -> None:
    log_ratio = torch.zeros(2, 3, requires_grad=True)
    advantages = tensor([[1.0, -2.0, 0.0], [3.0, -0.5, 0.25]])
    (found,) = torch.autograd.grad(component("policy_loss", name)(log_ratio, advantages).sum(), log_ratio)
    assert_close(found, -advantages)


LOSSES = tensor([[1.0, 2.0, 6.0], [5.0, 0.0, 0.0]])
MASK = tensor([[True, True, True], [True, False, False]])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tokens", 14 / 4),
        ("responses", (9 / 3 + 5) / 2),
        ({"use": "constant", "length": 7}, (9 + 5) / 2 / 7),
    ],
)
def test_reductions_by_hand(words: str | dict[str, object], expected: float) -> None:
    assert component("reduction", words)(LOSSES, MASK).item() == pytest.approx(expected)
    assert component("reduction", words)(LOSSES.masked_fill(~MASK, nan), MASK).item() == pytest.approx(expected)


@given(st.integers(0, 1000), st.integers(1, 6))
def test_reductions_agree_where_all_responses_have_one_length(seed: int, length: int) -> None:
    losses = torch.randn(4, length, generator=torch.Generator().manual_seed(seed))
    words: list[str | dict[str, object]] = ["tokens", "responses", {"use": "constant", "length": length}]
    for one in words:
        assert_close(component("reduction", one)(losses, torch.ones(4, length).bool()), losses.mean())
