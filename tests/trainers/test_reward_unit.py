"""PPO does not depend on the reward's unit: values have one of their own, which the training finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marks import slow
from torch import tensor
from torch.testing import assert_close

from rlhf_plugins.arithmetic import masked
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.trainers.ppo.critic import ValueHead

from . import by_hand
from .online_parts import Bases, ants, logged, objective, rolled_out, trainer

UNITLESS = ("loss", "policy_loss", "value_loss", "grad_norm", "kl", "entropy", "approx_kl", "explained_variance")


def trained_in(unit: float, bases: Bases, folder: Path, kl: Any, **parts: Any) -> Any:
    """A training whose reward and penalty are in another unit."""

    def score(samples: Samples) -> list[float]:
        return [unit * number for number in ants(samples)]

    penalty = {"use": "missing_eos", "penalty": unit * by_hand.MISSING_EOS}
    found = trainer(bases(), folder, objective(score, kl=kl, shaping=[penalty], **parts), max_steps=8, num_iterations=2)
    found.train()
    return found


@pytest.mark.parametrize("unit", [*slow(4.0), 2.0**-20])
@pytest.mark.parametrize("advantage", ["gae", *slow("td")])
def test_reward_penalty_and_kl_in_another_unit_train_the_same(
    bases: Bases, tmp_path: Path, unit: float, advantage: str
) -> None:
    one, other = (
        trained_in(k, bases, tmp_path, {"use": "in_reward", "coef": k * 0.3}, advantage=advantage) for k in (1.0, unit)
    )
    for name in UNITLESS:
        assert logged(other, name) == pytest.approx(logged(one, name), rel=1e-6, abs=1e-6), name
    assert logged(other, "reward") == pytest.approx([unit * reward for reward in logged(one, "reward")])


@pytest.mark.slow
def test_with_the_kl_in_the_loss_the_reward_alone_may_have_another_unit(bases: Bases, tmp_path: Path) -> None:
    one, other = (trained_in(k, bases, tmp_path, {"use": "in_loss", "coef": 0.3}) for k in (1.0, 4.0))
    for name in UNITLESS:
        assert logged(other, name) == pytest.approx(logged(one, name), rel=1e-6, abs=1e-6), name


def test_values_by_hand() -> None:
    """Returns 1 and 3, then 6 and 6: means 2 and 4, deviations 1 and sqrt(4.5); V = 2 + 1 (2 h + 1/2) stays."""
    head, hidden = ValueHead(1), tensor([[0.0], [3.0]])
    assert head(hidden).tolist() == [0, 0]
    head.learn(tensor([1.0, 3.0]))
    assert head(hidden).tolist() == [2, 2]
    head.weight.data.fill_(2.0)
    head.bias.data.fill_(0.5)
    head.learn(tensor([6.0, 6.0]))
    assert head.unit == pytest.approx((4.0, 4.5**0.5))
    assert head.weight.item() == pytest.approx(2 / 4.5**0.5)
    assert head.bias.item() == pytest.approx((0.5 + 2 - 4) / 4.5**0.5)
    assert_close(head(hidden), tensor([2.5, 8.5]))


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=5), min_size=1, max_size=5))
def test_values_stay_and_their_unit_is_that_of_all_returns(rollouts: list[list[float]]) -> None:
    head, hidden, seen = ValueHead(2), torch.randn(4, 2), [1.0, -1.0]
    head.learn(tensor(seen))
    torch.nn.init.normal_(head.weight)
    before = head(hidden).detach()
    for returns in rollouts:
        seen += returns
        head.learn(tensor(returns))
    assert_close(head(hidden).detach(), before, rtol=1e-3, atol=1e-3)
    everything = tensor(seen, dtype=torch.float64)
    assert head.unit == pytest.approx((everything.mean().item(), everything.std(correction=0).item()), abs=1e-4)


@pytest.mark.parametrize(("returns", "unit"), [([0.0, 0.0], (0, 1)), ([5.0, 5.0], (5, 5e-6))])
def test_equal_returns_give_finite_values(returns: list[float], unit: tuple[float, float]) -> None:
    head = ValueHead(1)
    head.learn(tensor(returns))
    assert head.unit == pytest.approx(unit)
    assert head(tensor([[1.0]])).item() == pytest.approx(returns[0])


def test_the_first_rollouts_graph_holds_the_head_as_it_is_now(bases: Bases, tmp_path: Path) -> None:
    found = trainer(bases(), tmp_path, steps_per_generation=1)
    torch.nn.init.normal_(found.model.value_head.weight)
    found.model.value_head.learn(tensor([-1.0, 1.0]))
    kept = rolled_out(found, ["how"] * 6)
    assert kept.first is not None
    assert kept.first.values is not None
    (again,) = [found._models.outputs(part.batch) for parts in kept.parts for part in parts]
    weight = found.model.value_head.weight
    slopes = [torch.autograd.grad(values.sum(), weight)[0] for values in (kept.first.values, again.values)]
    assert_close(kept.first.values, again.values)
    assert_close(*slopes)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_white_advantages_have_no_unit(scale: float) -> None:
    values, mask = tensor([[1.0, 2.0], [4.0, 9.0]]), tensor([[True, True], [True, False]])
    assert_close(masked.whiten(scale * values, mask), masked.whiten(values, mask))
