"""EWC by hand: exact where the old data's posterior is Gaussian, squares per example, held weights in a training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rlhf_continual.ewc import EWC, log_likelihoods
from rlhf_continual.fisher import diagonal, penalty
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from rlhf_plugins import RunError, Samples, component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run


def test_the_penalty_by_hand() -> None:
    """3 / 2 (2 * 1^2 + 4 * 0.5^2) = 4.5, with slopes 3 * 2 * 1 and 3 * 4 * 0.5."""
    weights = [torch.tensor([1.0, 0.5], requires_grad=True)]
    found = penalty(weights, [torch.zeros(2)], [torch.tensor([2.0, 4.0])], 3.0)
    found.backward()
    assert found.item() == 4.5
    assert weights[0].grad.tolist() == [6.0, 6.0]  # type: ignore[union-attr]


def test_it_is_joint_least_squares_where_the_old_inputs_are_orthogonal() -> None:
    """y = X theta + N(0, 1): the Fisher information is X'X, so that the penalty is the old data's loss."""
    draw = torch.Generator().manual_seed(0)
    old = torch.linalg.qr(torch.randn(40, 3, generator=draw, dtype=torch.float64)).Q * torch.tensor([1.0, 2.0, 3.0])
    new = torch.randn(30, 3, generator=draw, dtype=torch.float64)
    y_old, y_new = (torch.randn(len(x), generator=draw, dtype=torch.float64) for x in (old, new))
    start = torch.linalg.lstsq(old, y_old).solution
    fisher = old.square().sum(0)  # of all 40 examples: the mean, times a strength of 40
    theta = torch.linalg.solve(new.T @ new + fisher.diag(), new.T @ y_new + fisher * start).requires_grad_()
    loss = (new @ theta - y_new).square().sum() / 2 + penalty([theta], [start], [fisher / 40], 40.0)
    (slope,) = torch.autograd.grad(loss, theta)
    assert slope.abs().max() < 1e-9
    joint = torch.linalg.lstsq(torch.cat([old, new]), torch.cat([y_old, y_new])).solution
    torch.testing.assert_close(theta.detach(), joint, rtol=0, atol=1e-9)


def test_the_square_is_of_each_examples_own_gradient() -> None:
    """log p = +-theta: gradients 1 and -1, whose squares have the mean 1 and whose mean has the square 0."""
    theta = torch.zeros(1, requires_grad=True)

    def examples() -> Iterator[Tensor]:
        yield (theta * 1).sum()
        yield (theta * -1).sum()

    assert diagonal(examples(), [theta])[0].tolist() == [1.0]
    with pytest.raises(ValueError, match="no example"):
        diagonal([], [theta])


def test_log_likelihoods_are_those_of_the_policy(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", tiny_pairs(8))
    policy = run.policy()
    samples = policy.encode(["how is the ant\n", "who\n"], ["bee cat", "dog"])
    found = [one.item() for one in log_likelihoods(policy.module, samples)]
    assert found == pytest.approx(policy.log_probs(samples).sum(1).tolist(), abs=1e-4)


def moved(folder: Path, strength: float | None) -> float:
    """How far a training moves the policy's log-probabilities."""
    run = tiny_run(tiny_base(folder / "base"), folder / f"run{strength}", tiny_pairs(32))
    ewc = [] if strength is None else [{"use": "ewc", "strength": strength, "prompts": 8, "max_new_tokens": 6}]
    trainer = {"max_steps": 4, "learning_rate": 1e-2, "disable_tqdm": True}
    made = component("stage", "preference", trainer=trainer, regularizers=ewc).run(run)
    samples = run.policy().encode(["how is the ant\n"], ["bee cat dog"])
    after = run.open("generator", made.policies["preference"])
    return float((after.log_probs(samples) - run.policy().log_probs(samples)).abs().sum())


def test_a_training_under_it_stays_nearer_to_its_start(tmp_path: Path) -> None:
    free, held = moved(tmp_path, None), moved(tmp_path, 1e6)
    assert 0 < held < free


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(RunError, match="ewc holds policies, not a Linear; for a reward model use l2_sp"):
        EWC().build(None, nn.Linear(2, 1))  # type: ignore[arg-type]


def test_of_a_new_adapter_only_b_is_held(tmp_path: Path) -> None:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base(tmp_path).path), LoraConfig(r=2))
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    found = diagonal(log_likelihoods(model, Samples([""], [""], [[1, 2]], [[4, 5]])), list(named.values()))
    held = {name.split(".")[-3] for name, each in zip(named, found, strict=True) if each.any()}
    assert held == {"lora_B"}
