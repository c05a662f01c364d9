"""Estimators without a critic: numbers worked by hand, the true gradient by enumeration, and their invariants."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement, product
from math import factorial, log, nan, prod, sqrt
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.contract.rollout import Rollout
from rlhf_plugins.errors import ComponentError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.registry.registry import registry

NAMES = registry().names("advantage")
COMPARING = [name for name in NAMES if registry().get("advantage", name).min_group > 1]
CRITICAL = [name for name in NAMES if registry().get("advantage", name).reads_values]


def estimate(name: str, rollout: Rollout, **options: float) -> Tensor:
    advantages: Tensor = component("advantage", {"use": name, **options})(rollout).advantages
    return advantages


def rollout(rewards: list[list[float]], group: list[int], **more: Any) -> Rollout:
    given_rewards = tensor(rewards, dtype=torch.float64)
    mask = torch.ones_like(given_rewards, dtype=torch.bool)
    return Rollout(given_rewards.sum(1), given_rewards, None, mask, tensor(group), **more)


def test_every_estimator_is_here() -> None:
    over_the_rollout = {"grpo_batch", "reinforce_plus_plus_baseline"}
    assert set(COMPARING) == {"dr_grpo", "grpo", "weighted_rloo", "rloo", *over_the_rollout}
    assert CRITICAL == ["gae", "td"]
    assert {*NAMES} - {*COMPARING, *CRITICAL} == {"monte_carlo", "reinforce_baseline", "reinforce_plus_plus", "remax"}


# Two prompts with two responses of two tokens each: whole rewards 1, 3 and 0, 4; to go (1, 1), (3, 2), (0, 0), (4, 1)
FOUR = rollout([[0, 1], [1, 2], [0, 0], [3, 1]], [0, 0, 1, 1], baseline=tensor([2.0, 2.0, 1.0, 1.0]))
WHITE = [[(x - 1.5) / sqrt(1.75) for x in row] for row in [(1, 1), (3, 2), (0, 0), (4, 1)]]  # mean 12/8, variance 14/8


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("monte_carlo", {"gamma": 0.5}, [[0.5, 1], [2, 2], [0, 0], [3.5, 1]]),
        ("reinforce_baseline", {}, [[-1, -1], [1, 0], [-2, -2], [2, -1]]),  # the batch's mean is 2
        ("rloo", {}, [[-2, -2], [2, 2], [-4, -4], [4, 4]]),
        ("dr_grpo", {}, [[-1, -1], [1, 1], [-2, -2], [2, 2]]),
        ("grpo", {}, [[a / (b + 1e-4)] * 2 for a, b in [(-1, 2**0.5), (1, 2**0.5), (-2, 8**0.5), (2, 8**0.5)]]),
        ("grpo_batch", {}, [[x / ((10 / 3) ** 0.5 + 1e-4)] * 2 for x in (-1, 1, -2, 2)]),  # 1, 3, 0, 4: mean 2
        ("reinforce_plus_plus", {}, WHITE),
        ("reinforce_plus_plus_baseline", {}, [[x / 2.5**0.5] * 2 for x in (-1, 1, -2, 2)]),  # variance (1 + 4) / 2
        ("remax", {}, [[-1, -1], [1, 0], [-1, -1], [3, 0]]),
    ],
)
def test_numbers_by_hand(name: str, options: dict[str, float], expected: list[list[float]]) -> None:
    assert_close(estimate(name, FOUR, **options), tensor(expected, dtype=torch.float64))


def test_the_weighted_rloo_by_hand() -> None:
    """Probabilities 1/2, 3/4, 1/4 weigh 1/4, 1/16, 9/16; rewards 1, 2, 4 give baselines 3.8, 2.5/.8125 and 1.2."""
    three = rollout([[1], [2], [4]], [0, 0, 0], log_probs=tensor([[0.5], [0.75], [0.25]], dtype=torch.float64).log())
    found = estimate("weighted_rloo", three).squeeze(1)
    assert found.tolist() == pytest.approx([1 - 3.8, 2 - 2.5 / 0.8125, 4 - 1.2])


def test_grpo_divides_by_the_deviation_of_a_sample_of_three() -> None:
    """Rewards 1, 2, 6 have mean 3 and variance (4 + 1 + 9) / 2."""
    found = estimate("grpo", rollout([[1], [2], [6]], [0, 0, 0])).squeeze(1)
    assert found.tolist() == pytest.approx([x / (7**0.5 + 1e-4) for x in (-2, -1, 3)])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rloo", [-1.5, -4.5, 6]),  # rewards 2, 0, 7
        ("dr_grpo", [-1, -3, 4]),
        ("weighted_rloo", [2 - 2 * 7 / 3, -(2 + 2 * 7) / 3, 7 - 2 / 2]),  # equal tokens: one of two weighs twice
        ("reinforce_baseline", [-1, -3, 4]),
    ],
)
def test_padding_is_no_token_of_a_response_that_is_shorter(name: str, expected: list[float]) -> None:
    short = rollout([[2, 9], [0, 9], [3, 4]], [0, 0, 0], log_probs=torch.full((3, 2), log(0.5), dtype=torch.float64))
    found = estimate(name, replace(short, mask=tensor([[True, False], [True, False], [True, True]])))
    assert found[:, 0].tolist() == pytest.approx(expected)


def true_gradient(logits: Tensor, rewards: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    (logits.softmax(0) @ rewards).backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize(
    ("name", "share"),
    [("monte_carlo", 1), ("remax", 1), ("rloo", 1), ("weighted_rloo", 1), ("dr_grpo", 2 / 3)]
    + [("reinforce_baseline", 2 / 3)],
)
def test_the_expected_gradient_is_the_policys(name: str, share: float) -> None:
    """All 27 draws of 3 actions from a softmax over 3; a mean that holds the response itself takes off a third."""
    logits, rewards = tensor([0.3, -0.5, 0.1], dtype=torch.float64), tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    probabilities, total = logits.softmax(0), torch.zeros(3, dtype=torch.float64)
    for draw in product(range(3), repeat=3):
        chosen = probabilities[list(draw)]
        drawn = rollout([[rewards[a].item()] for a in draw], [0, 0, 0], log_probs=chosen.log().unsqueeze(1))
        advantages = estimate(name, replace(drawn, baseline=tensor([7.0] * 3))).squeeze(1)
        scores = torch.eye(3, dtype=torch.float64)[list(draw)] - probabilities  # grad log pi, (3 draws, 3 logits)
        total += chosen.prod() * (advantages @ scores) / 3
    assert_close(total, share * true_gradient(logits, rewards))


def variance(name: str, size: int) -> float:
    """Of the gradient that `size` draws from a softmax over 3 actions give: each outcome, by how likely it is."""
    logits, rewards = tensor([2.0, 0.0, -1.0], dtype=torch.float64), tensor([1.0, 0.0, -2.0], dtype=torch.float64)
    mean, square, logps = torch.zeros(3, dtype=torch.float64), 0.0, logits.log_softmax(0)
    for draw in combinations_with_replacement(range(3), size):
        orders = factorial(size) / prod(factorial(draw.count(action)) for action in range(3))
        likely = orders * float(logps[list(draw)].sum().exp())
        drawn = rollout([[rewards[a].item()] for a in draw], [0] * size, log_probs=logps[list(draw)].unsqueeze(1))
        scores = torch.eye(3, dtype=torch.float64)[list(draw)] - logps.exp()
        gradient = estimate(name, drawn).squeeze(1) @ scores / size
        mean, square = mean + likely * gradient, square + likely * float(gradient @ gradient)
    return square - float(mean @ mean)


@pytest.mark.parametrize(("size", "share"), [(2, 1.0), (4, 1.150), (8, 1.002), (16, 0.687)])
def test_the_variance_of_weighted_rloo_beside_rloos(size: int, share: float) -> None:
    """Its weights are better than equal ones only where enough responses make their mean certain."""
    assert variance("weighted_rloo", size) / variance("rloo", size) == pytest.approx(share, abs=1e-3)


def random_rollout(seed: int) -> Rollout:
    """Eight responses of 1 to 5 tokens to three prompts, of which one has four, in no order."""
    draw = torch.Generator().manual_seed(seed)
    rewards, values, logits = (torch.randn(8, 5, generator=draw, dtype=torch.float64) for _ in range(3))
    mask = torch.arange(5) < torch.randint(1, 6, (8, 1), generator=draw)
    rewards = rewards.masked_fill(~mask, 0.0)
    group = tensor([0, 0, 1, 1, 2, 2, 2, 2])[torch.randperm(8, generator=draw)]
    baseline = torch.randn(8, generator=draw, dtype=torch.float64)
    log_probs = -logits.exp().masked_fill(~mask, 0.0)
    return Rollout(rewards.sum(1), rewards, values.masked_fill(~mask, 0.0), mask, group, log_probs, baseline)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10_000), junk=st.sampled_from([1e6, nan]))
def test_padding_never_counts(name: str, seed: int, junk: float) -> None:
    clean = random_rollout(seed)
    fields = {field: getattr(clean, field) for field in ("rewards", "values", "log_probs")}
    dirty = replace(clean, **{field: x.masked_fill(~clean.mask, junk) for field, x in fields.items()})
    found = estimate(name, dirty)
    assert_close(found, estimate(name, clean), rtol=0, atol=0)
    assert not found[~clean.mask].any()


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_responses_never_counts(name: str, seed: int) -> None:
    some, order = random_rollout(seed), torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    turned = Rollout(**{field: value[order] for field, value in vars(some).items()})
    assert_close(estimate(name, turned), estimate(name, some)[order])


@pytest.mark.parametrize("name", [*COMPARING, "reinforce_baseline", "reinforce_plus_plus"])
@given(seed=st.integers(0, 10_000), shift=st.floats(-5, 5))
def test_a_reward_that_all_get_changes_nothing(name: str, seed: int, shift: float) -> None:
    some = random_rollout(seed)
    last = some.mask.sum(1, keepdim=True) - 1
    more = some.rewards.scatter_add(1, last, torch.full((8, 1), shift, dtype=torch.float64))
    assert_close(estimate(name, replace(some, rewards=more)), estimate(name, some), rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 10_000))
def test_estimators_agree_where_their_equations_do(seed: int) -> None:
    some = random_rollout(seed)
    even = replace(some, log_probs=torch.full((8, 5), log(0.3)), mask=some.mask | True)  # equal norms
    assert_close(estimate("weighted_rloo", even), estimate("rloo", even))
    size = (some.group.unsqueeze(1) == some.group).sum(1, keepdim=True)
    assert_close(estimate("dr_grpo", some) * size / (size - 1), estimate("rloo", some))
    worthless = replace(some, values=torch.zeros_like(some.rewards), baseline=torch.zeros(8))
    for other in (estimate("gae", worthless, lam=1.0), estimate("remax", worthless)):
        assert_close(other, estimate("monte_carlo", some))
    assert_close(estimate("td", some), estimate("gae", some, lam=0.0))


def test_a_baseline_is_whitened_over_tokens_and_not_over_responses() -> None:
    """Rewards -1 and 1 in three tokens and one: the mean over tokens is -1/2, their variance 3/4."""
    uneven = rollout([[-1, 0, 0], [1, 9, 9]], [0, 0])
    mask = tensor([[True, True, True], [True, False, False]])
    found = estimate("reinforce_plus_plus_baseline", replace(uneven, mask=mask))
    assert_close(found, tensor([[-1, -1, -1], [3, 0, 0]], dtype=torch.float64) / 3**0.5)


@pytest.mark.parametrize("name", COMPARING)
def test_a_lone_response_is_refused_where_siblings_are_compared(name: str) -> None:
    lone = rollout([[1.0], [2.0], [3.0]], [0, 0, 1], log_probs=torch.zeros(3, 1, dtype=torch.float64))
    with pytest.raises(ComponentError, match="a prompt has a single one"):
        estimate(name, lone)


@pytest.mark.parametrize("name", COMPARING)
def test_equal_rewards_give_no_advantage(name: str) -> None:
    certain = rollout([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]], [4, 4, 4], log_probs=torch.zeros(3, 2))
    assert not estimate(name, certain).any()


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "grpo_batch", "reinforce_plus_plus_baseline"])
@pytest.mark.parametrize(("size", "reward"), [(3, 100.3), (6, 1000.1), (7, 9.7), (7, 1e5 + 0.1)])
def test_equal_rewards_say_nothing_whatever_their_mean_rounds_to(name: str, size: int, reward: float) -> None:
    rewards = tensor([[0.3]] * size + [[reward]] * size)
    group = torch.arange(2).repeat_interleave(size)
    rollout = Rollout(rewards.squeeze(1), rewards, None, torch.ones(2 * size, 1, dtype=torch.bool), group)
    assert estimate(name, rollout).abs().max() == 0
