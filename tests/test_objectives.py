"""KL in the reward and the clipped losses: published cases, cases worked by hand, and what masks must hide."""

from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor
from torch.testing import assert_close

from rlhf_plugins.objectives import clipped_policy_loss, clipped_value_loss, kl_estimate, penalised_rewards


def test_kl_in_the_reward_of_a_worked_case() -> None:
    # Stiennon et al. 2020: each token costs -0.5 * -0.1 = 0.05 and the score 1 falls on the last
    log_ratio = tensor([[0.1, 0.2, 0.3]]) - tensor([[0.2, 0.3, 0.4]])
    rewards = penalised_rewards(tensor([1.0]), log_ratio, torch.ones(1, 3, dtype=torch.bool), coef=0.5)
    assert_close(rewards, tensor([[0.05, 0.05, 1.05]]))


def test_the_score_falls_on_each_rows_last_token() -> None:
    mask = tensor([[True, False, False], [True, True, False]])
    rewards = penalised_rewards(tensor([2.0, -3.0]), torch.full((2, 3), 10.0), mask, coef=0.1)
    assert_close(rewards, tensor([[1.0, 0.0, 0.0], [-1.0, -4.0, 0.0]]))  # 2 - 1; -1, -3 - 1


@given(st.integers(0, 10_000), st.floats(0, 2))
def test_rewards_sum_to_the_score_less_the_penalty(seed: int, coef: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores, log_ratio = torch.randn(5, generator=draw), torch.randn(5, 7, generator=draw)
    mask = torch.arange(7) < torch.randint(1, 8, (5, 1), generator=draw)
    rewards = penalised_rewards(scores, log_ratio, mask, coef)
    assert_close(rewards.sum(1), scores - coef * (log_ratio * mask).sum(1), rtol=1e-4, atol=1e-5)
    assert not rewards[~mask].any()


# Schulman et al. 2017, equation 7: (ratio, advantage, loss) at epsilon 0.2
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (2.718281828, 1.0, -1.2),  # gain clipped at 1.2
        (0.367879441, 1.0, -0.367879441),  # a loss of probability is not forgiven
        (2.718281828, -1.0, 2.718281828),
        (0.367879441, -1.0, 0.8),  # clipped at 0.8
        (1.1, 3.0, -3.3),  # inside the clip nothing happens
    ],
)
def test_clipped_policy_loss_of_published_cases(ratio: float, advantage: float, loss: float) -> None:
    found = clipped_policy_loss(tensor([[log(ratio)]]), tensor([[advantage]]), epsilon=0.2)
    assert_close(found, tensor([[loss]]))


def test_no_gradient_beyond_the_clip() -> None:
    log_ratio = tensor([[0.5, -0.5, 0.5, -0.5]], requires_grad=True)  # ratios 1.65 and 0.61
    clipped_policy_loss(log_ratio, tensor([[1.0, 1.0, -1.0, -1.0]]), epsilon=0.2).sum().backward()
    assert log_ratio.grad is not None
    assert_close(log_ratio.grad, tensor([[0.0, -0.6065307, 1.6487213, 0.0]]))  # d(-A e^x) = -A e^x


# value, old value, return -> 1/2 max of both squares, epsilon 0.2
@pytest.mark.parametrize(
    ("value", "old", "target", "loss"),
    [
        (1.0, 0.9, 2.0, 0.5),  # within epsilon: 1/2 (1 - 2)^2
        (1.0, 0.0, 2.0, 1.62),  # held at 0.2: 1/2 (0.2 - 2)^2
        (1.0, 2.0, 0.0, 1.62),  # held at 1.8: 1/2 1.8^2
        (1.0, 0.0, 0.0, 0.5),  # held at 0.2 would cost less: the larger counts
    ],
)
def test_clipped_value_loss_by_hand(value: float, old: float, target: float, loss: float) -> None:
    found = clipped_value_loss(tensor([[value]]), tensor([[old]]), tensor([[target]]), epsilon=0.2)
    assert_close(found, tensor([[loss]]))


def test_losses_have_the_gradient_that_they_should() -> None:
    draw = torch.Generator().manual_seed(0)
    x, a, r = (torch.randn(3, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clipped_policy_loss(x, a, 0.2), x)
    assert torch.autograd.gradcheck(lambda x: clipped_value_loss(x, a, r, 0.2), x)
    assert torch.autograd.gradcheck(lambda x: penalised_rewards(a[:, 0], x, a.abs() >= 0, 0.1), x)


def test_kl_estimate_of_a_published_case() -> None:
    # huggingface/trl@d0aa421e tests/test_ppo_trainer.py: log-ratios of two sequences, summing to 0.1 and -0.2
    logp, ref = tensor([[0.5, 0.2, 0.1], [0.6, 0.2, 0.1]]), tensor([[0.4, 0.3, 0.0], [0.7, 0.1, 0.3]])
    everywhere = torch.ones(2, 3, dtype=torch.bool)
    assert kl_estimate(logp - ref, everywhere).item() == pytest.approx(-0.05)
    first = tensor([[True, False, False], [True, True, False]])
    assert kl_estimate(logp - ref, first).item() == pytest.approx(0.05)  # (0.1 + (-0.1 + 0.1)) / 2


def test_kl_estimate_is_the_kl_of_the_distributions() -> None:
    # KL([.98 .01 .01] || [.01 .01 .98]) = .97 log 98 = 4.4474 (same source), drawn exactly in proportion
    log_ratio = tensor([[log(98.0)]] * 98 + [[0.0]] + [[-log(98.0)]])
    assert kl_estimate(log_ratio, torch.ones(100, 1, dtype=torch.bool)).item() == pytest.approx(4.4474, abs=1e-4)
