"""Losses of tokens and how they are summed: published cases, numbers by hand, gradients, and what masks hide."""

from __future__ import annotations

from collections import defaultdict
from math import exp, log, nan
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
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


def test_cispo_clips_the_weight_of_a_token_and_not_its_gradient() -> None:
    """Ratios e, 10 and .5 at a limit of 5: the gradient in log r is -A min(r, 5)."""
    log_ratio = tensor([[1.0, log(10), log(0.5)]], requires_grad=True)
    losses = component("policy_loss", "cispo")(log_ratio, tensor([[1.0, 2.0, -3.0]]))
    assert losses.tolist() == [pytest.approx([-exp(1), -2 * 5 * log(10), 3 * 0.5 * log(0.5)])]
    (found,) = torch.autograd.grad(losses.sum(), log_ratio)
    assert found.tolist() == [pytest.approx([-exp(1), -10, 1.5])]


def test_sapo_fades_smoothly_and_faster_where_the_advantage_is_negative() -> None:
    """At r = 2, with s = sigmoid(tau): the loss is -A s 4 / tau, its gradient in log r -4 A s (1 - s) r."""
    assert loss("sapo", 2.0, 1.0) == pytest.approx(-4 / (1 + exp(-1)))
    assert loss("sapo", 2.0, -1.0) == pytest.approx(4 / 1.05 / (1 + exp(-1.05)))
    assert loss("sapo", 2.0, -1.0, tau_neg=2.0) == pytest.approx(2 / (1 + exp(-2)))
    log_ratio = tensor([[log(2), log(2)]], requires_grad=True)
    losses = component("policy_loss", "sapo")(log_ratio, tensor([[1.0, -1.0]]))
    (found,) = torch.autograd.grad(losses.sum(), log_ratio)
    sides = [(1 / (1 + exp(-tau)), sign) for tau, sign in ((1.0, -1), (1.05, 1))]
    assert found.tolist() == [pytest.approx([sign * 8 * s * (1 - s) for s, sign in sides])]


def test_advantage_weighted_regression_by_hand() -> None:
    assert loss("advantage_weighted", 0.5, 1.0, beta=0.5) == pytest.approx(exp(2) * log(2))
    assert loss("advantage_weighted", 0.5, 9.0, limit=5.0) == pytest.approx(5 * log(2))  # e^9 is beyond it
    assert loss("advantage_weighted", 0.5, 0.0) == pytest.approx(log(2))  # the supervised loss


def asked(name: str, log_ratio: Tensor, advantages: Tensor, mask: Tensor, **options: float) -> Tensor:
    acts = component("policy_loss", {"use": name, **options})
    found: Tensor = acts(log_ratio, advantages, *([mask] if acts.reads_mask else []))
    return found


@pytest.mark.parametrize("name", sorted({*registry().names("policy_loss")} - {"advantage_weighted", "gspo"}))
def test_at_ratio_1_every_loss_has_the_policy_gradient(name: str) -> None:
    log_ratio = torch.zeros(2, 3, requires_grad=True)
    advantages = tensor([[1.0, -2.0, 0.0], [3.0, -0.5, 0.25]])
    losses = asked(name, log_ratio, advantages, torch.ones(2, 3, dtype=torch.bool))
    (found,) = torch.autograd.grad(losses.sum(), log_ratio)
    assert_close(found, -advantages)


TWO = tensor([[True, True, False], [True, True, True]])
MOVED = tensor([[0.2, 0.4, 9.0], [-0.6, 0.1, -0.1]])  # of a mean 0.3 and -0.2, without what is behind the first


@pytest.mark.parametrize("name", ["gspo", "gspo_token"])
def test_the_ratio_of_a_response_is_the_geometric_mean_of_its_tokens(name: str) -> None:
    """s = e^0.3 = 1.35 and e^-0.2 = 0.82: clipped at 1.25 where A = 2, at 0.9 where A = -1, and else not at all."""
    sharp = {"epsilon": 0.1, "epsilon_high": 0.25}
    for advantages, expected in (([2.0, -1.0], [-2.5, 0.9]), ([-2.0, 1.0], [2 * exp(0.3), -exp(-0.2)])):
        found = asked(name, MOVED, tensor(advantages).unsqueeze(1).expand(2, 3), TWO, **sharp)
        for row, own, value in zip(found, TWO, expected, strict=True):
            assert row[own].tolist() == pytest.approx([value] * int(own.sum()))


def test_a_clipped_response_learns_nothing_and_any_other_with_equal_weights_of_its_tokens() -> None:
    """Of the mean over a response of n tokens the gradient at each is -A s / n."""
    advantages, names = tensor([[2.0], [1.0]]).expand(2, 3), ("gspo", "gspo_token")
    for name in names:
        log_ratio = MOVED.clone().requires_grad_()
        losses = asked(name, log_ratio, advantages, TWO, epsilon=0.1, epsilon_high=0.25)
        mean = component("reduction", "responses")(losses, TWO)
        (found,) = torch.autograd.grad(mean, log_ratio)
        assert found.tolist() == [[0, 0, 0], [pytest.approx(-exp(-0.2) / 3 / 2)] * 3], name


def test_advantages_of_tokens_stay_at_their_tokens_in_gspo_token_alone() -> None:
    advantages = tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 6.0]])
    expected = {"gspo": [[-2, -2, 0], [-2, -2, -2]], "gspo_token": [[-1, -3, 0], [0, 0, -6]]}  # at a ratio of 1
    for name, gradient in expected.items():
        log_ratio = torch.zeros(2, 3, requires_grad=True)
        losses = asked(name, log_ratio, advantages, TWO).masked_fill(~TWO, 0.0)
        (found,) = torch.autograd.grad(losses.sum(), log_ratio)
        assert_close(found, tensor(gradient, dtype=torch.float32))


@pytest.mark.parametrize("delay", [0.0, 4e-4, 0.3])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_gspo_is_trls_sequence_level(loss_type: str, delay: float) -> None:
    """One batch of four responses by TRL's own arithmetic: its loss, its gradients and its share of clipped ones."""
    draw = torch.Generator().manual_seed(0)
    mask = torch.arange(6) < tensor([6, 1, 4, 2]).unsqueeze(1)
    old, moved = -torch.rand(4, 6, generator=draw), delay * torch.randn(4, 6, generator=draw)
    advantages = tensor([-1.5, -0.5, -2.0, 1.0])
    leaves = [(old + moved).requires_grad_() for _ in range(2)]
    theirs, logged = trl_loss(leaves[0], old, mask, advantages, loss_type)
    losses = asked("gspo", leaves[1] - old, advantages.unsqueeze(1).expand(4, 6), mask)
    ours = component("reduction", {"grpo": "responses", "dapo": "tokens"}[loss_type])(losses, mask)
    assert_close(ours, theirs)
    gradients = [torch.autograd.grad(each, leaf)[0] for each, leaf in zip((theirs, ours), leaves, strict=True)]
    assert_close(gradients[1], gradients[0].masked_fill(~mask, 0.0))
    clipped = (gradients[1] == 0)[:, 0].float().mean()
    assert logged["clip_ratio/region_mean"] == [pytest.approx(clipped.item())]
    assert 0 < clipped < 1 or delay == 0


def trl_loss(
    log_probs: Tensor, old: Tensor, mask: Tensor, advantages: Tensor, loss_type: str
) -> tuple[Tensor, dict[str, list[float]]]:
    """What GRPOTrainer computes of log-probabilities at `importance_sampling_level="sequence"`, and what it logs."""
    off = dict.fromkeys(
        ("aux_loss_enabled", "use_vllm", "_entropy_bonus_enabled", "vllm_importance_sampling_correction")
    )
    options: dict[str, Any] = {"top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "beta": 0.0}
    options |= {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}
    logged: dict[str, list[float]] = defaultdict(list)
    whole = SimpleNamespace(reduce=lambda found, **_: found, gather=lambda found: found, num_processes=1)
    trainer = SimpleNamespace(
        **off, **options, loss_type=loss_type, model=torch.nn.Identity(), accelerator=whole, _metrics={"train": logged},
        args=SimpleNamespace(delta=None, steps_per_generation=1), current_gradient_accumulation_steps=1,
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_probs, torch.zeros_like(log_probs), None),
    )  # fmt: skip
    ids = torch.zeros(4, 6, dtype=torch.long)
    inputs = {"prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": mask.long()}
    inputs |= {"advantages": advantages, "old_per_token_logps": old, "num_items_in_batch": mask.sum()}
    loss: Tensor = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    return loss, logged


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
