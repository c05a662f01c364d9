"""GAE and TD: published numbers, the Monte Carlo and one-step limits, and blindness to padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.components.advantage import GAE, TD
from rlhf_plugins.contract.rollout import Rollout


def rollout(rewards: Tensor, values: Tensor, mask: Tensor | None = None) -> Rollout:
    mask = torch.ones_like(rewards, dtype=torch.bool) if mask is None else mask
    rows = torch.arange(len(rewards))
    return Rollout(rewards.sum(1), rewards, values, mask, rows)


def random_rollout(seed: int) -> Rollout:
    draw = torch.Generator().manual_seed(seed)
    rewards, values = (torch.randn(4, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    return rollout(rewards, values, torch.arange(6) < torch.randint(1, 7, (4, 1), generator=draw))


# Schulman et al. 2016 with V = 0 after the last step; the first case is also torchtune's
@pytest.mark.parametrize(
    ("gae", "rewards", "values", "expected"),
    [
        (GAE(0.9, 0.95), [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.6579225, 0.7695, 0.9, 0.0]),
        (GAE(0.99, 0.95), [1.0, 0.5, -0.2, 1.0], [0.8, 0.6, 0.4, 0.9], [1.412980223, 0.658139525, 0.38505, 0.1]),
        (GAE(1.0, 1.0), [1.0, 0.0, 2.0], [0.5, 0.5, 0.5], [2.5, 1.5, 1.5]),
    ],
)
def test_published_advantages(gae: GAE, rewards: list[float], values: list[float], expected: list[float]) -> None:
    found = gae(rollout(tensor([rewards]), tensor([values])))
    assert_close(found.advantages, tensor([expected]))
    assert_close(found.returns, tensor([expected]) + tensor([values]))


def test_two_steps_by_hand() -> None:
    found = GAE(gamma=0.5, lam=0.5)(rollout(tensor([[1.0, 2.0]]), tensor([[3.0, 4.0]])))
    # delta_2 = 2 + 0 - 4 = -2; delta_1 = 1 + .5 * 4 - 3 = 0; A_1 = 0 + .25 * -2
    assert found.advantages.tolist() == [[-0.5, -2.0]]
    assert found.returns.tolist() == [[2.5, 2.0]]


@given(st.integers(0, 10_000))
def test_lam_1_is_monte_carlo_less_the_value(seed: int) -> None:
    given_rollout = random_rollout(seed)
    assert given_rollout.values is not None
    rewards = given_rollout.rewards * given_rollout.mask
    to_come = rewards.flip(1).cumsum(1).flip(1)
    found = GAE(gamma=1.0, lam=1.0)(given_rollout)
    assert_close(found.advantages, (to_come - given_rollout.values) * given_rollout.mask)
    assert_close(found.returns, to_come * given_rollout.mask)


@given(st.integers(0, 10_000))
def test_lam_0_is_the_one_step_error(seed: int) -> None:
    given_rollout = random_rollout(seed)
    assert given_rollout.values is not None
    values = given_rollout.values * given_rollout.mask
    after = torch.cat([values[:, 1:], torch.zeros(4, 1, dtype=values.dtype)], 1)
    errors = (given_rollout.rewards + 0.9 * after - values) * given_rollout.mask
    for found in (GAE(gamma=0.9, lam=0.0)(given_rollout), TD(gamma=0.9)(given_rollout)):
        assert_close(found.advantages, errors)
        assert_close(found.returns, errors + values)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1e6, float("nan")]))
def test_padding_and_batch_mates_never_count(seed: int, junk: float) -> None:
    clean = random_rollout(seed)
    assert clean.values is not None
    hidden = ~clean.mask
    dirty = replace(
        clean, rewards=clean.rewards.masked_fill(hidden, junk), values=clean.values.masked_fill(hidden, junk)
    )
    wanted, found = GAE()(clean), GAE()(dirty)
    assert_close(found.advantages, wanted.advantages, rtol=0, atol=0)
    assert_close(found.returns, wanted.returns, rtol=0, atol=0)
    n = int(clean.mask[0].sum())
    alone = GAE()(rollout(clean.rewards[:1, :n], clean.values[:1, :n]))
    assert_close(alone.advantages, wanted.advantages[:1, :n])
    assert not wanted.advantages[hidden].any()
    assert not wanted.returns[hidden].any()


def test_large_values_stay_finite() -> None:
    found = GAE()(rollout(torch.full((1, 512), 1e4), torch.full((1, 512), -1e4)))
    assert found.advantages.isfinite().all()


@pytest.mark.parametrize("options", [{"gamma": 1.1}, {"gamma": -0.1}, {"lam": 2.0}, {"lam": "high"}])
def test_an_option_out_of_range_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(GAE).validate_python(options)
