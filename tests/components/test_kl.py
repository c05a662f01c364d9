"""KL estimators against exact KLs, the two places where it acts, and the controller's published numbers."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.arithmetic.objectives import at_the_end
from rlhf_plugins.errors import PluginError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.registry.registry import registry

NAMES = registry().names("kl_estimator")
# huggingface/trl@d0aa421e tests/test_ppo_trainer.py
LOGP, REF = tensor([[0.5, 0.2, 0.1], [0.6, 0.2, 0.1]]), tensor([[0.4, 0.3, 0.0], [0.7, 0.1, 0.3]])


def test_published_penalties() -> None:
    assert_close(component("kl_estimator", "k1")(LOGP - REF), tensor([[0.1, -0.1, 0.1], [-0.1, 0.1, -0.2]]))
    assert_close(component("kl_estimator", "k2")(LOGP - REF), tensor([[0.005, 0.005, 0.005], [0.005, 0.005, 0.02]]))
    assert component("kl_estimator", "k3")(tensor([log(2.0)])).item() == pytest.approx(0.5 - 1 + log(2))


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of pi with a gradient, log pi and log pi_ref over 6 tokens."""
    draw = torch.Generator().manual_seed(seed)
    logits, other = (torch.randn(6, generator=draw, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    return logits, logits.log_softmax(0), other.log_softmax(0)


@given(st.integers(0, 10_000))
def test_k1_and_k3_are_unbiased_and_k2_and_k3_never_negative(seed: int) -> None:
    _, log_pi, log_ref = drawn(seed)
    pi, x = log_pi.exp().detach(), (log_pi - log_ref).detach()
    exact = (pi * x).sum()
    for name in ("k1", "k3"):
        assert_close((pi * component("kl_estimator", name)(x)).sum(), exact)
    assert all((component("kl_estimator", name)(x) >= 0).all() for name in ("k2", "k3"))


@given(st.integers(0, 10_000))
def test_the_expected_gradients_are_as_the_docstrings_say(seed: int) -> None:
    """With samples held fixed: none of k1, the KL's own of k2, that of the reverse KL(pi_ref || pi) of k3."""
    logits, log_pi, log_ref = drawn(seed)
    pi = log_pi.exp().detach()
    found = {}
    for name in NAMES:
        estimate = (pi * component("kl_estimator", name)(log_pi - log_ref)).sum()
        (found[name],) = torch.autograd.grad(estimate, logits, retain_graph=True)
    (exact,) = torch.autograd.grad((log_pi.exp() * (log_pi - log_ref)).sum(), logits, retain_graph=True)
    (reverse,) = torch.autograd.grad((log_ref.exp() * (log_ref - log_pi)).sum(), logits)
    assert_close(found["k1"], torch.zeros_like(exact))
    assert_close(found["k2"], exact)
    assert_close(found["k3"], reverse)
    assert not registry().get("kl_estimator", "k1").has_gradient  # type: ignore[attr-defined]


def test_in_the_reward_it_is_taken_off_and_in_the_loss_added() -> None:
    x = LOGP - REF
    in_reward, in_loss = component("kl", "in_reward"), component("kl", "in_loss")
    assert_close(in_reward(x).off_reward, x)
    assert in_reward(x).on_loss is None
    assert_close(in_loss(x).on_loss, (-x).exp() - 1 + x)
    assert in_loss(x).off_reward is None


def test_no_gradient_flows_through_a_reward() -> None:
    x = (LOGP - REF).requires_grad_()
    assert not component("kl", "in_reward")(x).off_reward.requires_grad
    assert component("kl", "in_loss")(x).on_loss.requires_grad


def test_a_constraint_accepts_what_is_within_its_limit_or_no_farther_than_it_was() -> None:
    alone = component("kl", {"use": "constraint", "coef": 0.0, "limit": 0.1})
    assert [alone.accepts(kl, 0.05) for kl in (0.1, 0.11)] == [True, False]
    assert [alone.accepts(kl, 0.3) for kl in (0.3, 0.31)] == [True, False]


def test_rewards_of_a_worked_case() -> None:
    """Stiennon et al. 2020: each token costs -0.5 * -0.1 = 0.05 and the score 1 falls on the last."""
    x, mask = tensor([[0.1, 0.2, 0.3]]) - tensor([[0.2, 0.3, 0.4]]), torch.ones(1, 3, dtype=torch.bool)
    rewards = at_the_end(tensor([1.0]), mask) - 0.5 * component("kl", "in_reward")(x).off_reward
    assert_close(rewards, tensor([[0.05, 0.05, 1.05]]))


def test_k1_is_refused_in_the_loss() -> None:
    with pytest.raises(PluginError, match="the gradient of k1 is 0 on average; in a loss use k2 or k3"):
        component("kl", {"use": "in_loss", "estimator": "k1"})


def test_the_adaptive_controller_of_ziegler() -> None:
    """Target 6, horizon 10000, from 0.2: KLs of 12, 3 and 6.3 over 256 responses each, one after another."""
    kl, coef = component("kl", {"use": "in_reward", "coef": 0.2, "adapt": {"target": 6.0}}), 0.2
    for seen, after in [(12.0, 0.201024), (3.0, 0.1999947571), (6.3, 0.2002507504)]:
        coef = kl.adapted(coef, seen, 256)
        assert coef == pytest.approx(after, rel=1e-9)
    assert component("kl", "in_reward").adapted(0.3, 99.0, 256) == 0.3


def test_a_rollout_longer_than_the_horizon_changes_the_strength_by_a_fifth_and_never_its_sign() -> None:
    kl = component("kl", {"use": "in_reward", "adapt": {"target": 6.0, "horizon": 10}})
    assert kl.adapted(0.5, 0.0, 500) == pytest.approx(0.4)
    assert kl.adapted(0.5, 60.0, 500) == pytest.approx(0.6)


@pytest.mark.parametrize("place", ["in_reward", "in_loss"])
def test_a_strength_of_0_that_should_adapt_is_refused(place: str) -> None:
    with pytest.raises(PluginError, match="coef: a strength of 0 cannot adapt"):
        component("kl", {"use": place, "coef": 0.0, "adapt": {}})


def test_a_huge_log_ratio_stays_finite_in_double() -> None:
    x = tensor([[-80.0, 80.0]], dtype=torch.float64)
    assert component("kl_estimator", "k3")(x).tolist() == [[pytest.approx(exp(80) - 81), pytest.approx(79)]]
