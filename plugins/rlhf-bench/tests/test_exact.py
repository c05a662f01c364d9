"""The IPO paper's bandits and the optimal policy, against closed forms."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from rlhf_bench.exact import (
    bradley_terry,
    certain,
    descended,
    kl,
    objective,
    optimal,
    preference,
    solved,
    uniform,
)

REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
REWARDS = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
TAUS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)


def softmax(*logits: float) -> list[float]:
    total = sum(map(exp, logits))
    return [exp(logit) / total for logit in logits]


@pytest.mark.parametrize("tau", TAUS)
def test_ipo_on_one_pair_of_two_actions_is_sigmoid_of_half_over_tau(tau: float) -> None:
    found = solved(preference(certain([(0, 1)]), uniform(2), "ipo", tau), uniform(2))
    assert found.exp().tolist() == pytest.approx([1 / (1 + exp(-0.5 / tau)), 1 / (1 + exp(0.5 / tau))], abs=1e-3)


@pytest.mark.parametrize("tau", TAUS)
def test_ipo_on_a_total_order_has_gaps_of_a_third_over_tau(tau: float) -> None:
    # mean of (h - c)^2 over (a,b), (b,c), (a,c) with c = 1/(2 tau): a gap g twice, 2 g once, so that g = 2 c / 3
    found = solved(preference(certain([(0, 1), (1, 2), (0, 2)]), uniform(3), "ipo", tau), uniform(3))
    assert found.exp().tolist() == pytest.approx(softmax(2 / (3 * tau), 1 / (3 * tau), 0.0), abs=1e-3)


@pytest.mark.parametrize("tau", TAUS)
def test_ipo_stays_at_the_reference_on_a_circle_and_moves_no_unseen_action(tau: float) -> None:
    circle = solved(preference(certain([(0, 1), (1, 2), (2, 0)]), uniform(3), "ipo", tau), uniform(3))
    assert circle.exp().tolist() == pytest.approx([1 / 3] * 3, abs=1e-3)
    unseen = solved(preference(certain([(0, 1)]), uniform(3), "ipo", tau), uniform(3))
    assert unseen.exp().tolist() == pytest.approx(softmax(0.25 / tau, -0.25 / tau, 0.0), abs=1e-3)


@pytest.mark.slow
def test_dpo_becomes_deterministic_on_a_certain_pair_whatever_its_beta() -> None:
    for beta in (0.5, 1.0):
        loss = preference(certain([(0, 1)]), uniform(2), "dpo", beta)
        early, late = descended(loss, uniform(2), (1_000, 10_000), 1.0)
        assert early.exp()[0] < late.exp()[0]
        assert late.exp()[0] > 1 - 1e-3


def test_the_optimal_policy_is_worked_by_hand() -> None:
    weights = [0.5 * exp(2.0), 0.3, 0.2 * exp(1.0)]  # pi_ref exp(r / beta) with beta = 1/2
    found = optimal(REFERENCE, REWARDS, 0.5)
    assert found.exp().tolist() == pytest.approx([weight / sum(weights) for weight in weights])
    value = objective(found, REFERENCE, REWARDS, 0.5)
    assert float(value) == pytest.approx(0.5 * log(sum(weights)))  # beta log Z


def test_the_kl_by_hand() -> None:
    expected = 0.5 * log(1.5) + 0.3 * log(0.9) + 0.2 * log(0.6)
    assert kl(REFERENCE, uniform(3)) == pytest.approx(expected)


def test_no_policy_has_a_higher_objective_than_the_optimal_one() -> None:
    best = solved(lambda policy: -objective(policy, REFERENCE, REWARDS, 0.5), REFERENCE)
    assert kl(best, optimal(REFERENCE, REWARDS, 0.5)) < 1e-9


def test_dpo_finds_the_optimal_policy_from_true_probabilities_and_ipo_another_one() -> None:
    judged, star = bradley_terry(REWARDS), optimal(REFERENCE, REWARDS, 0.5)
    assert kl(solved(preference(judged, REFERENCE, "dpo", 0.5), REFERENCE), star) < 1e-9
    assert kl(solved(preference(judged, REFERENCE, "ipo", 0.5), REFERENCE), star) > 1e-3
