"""Offline RL on a tiny base: what was rewarded becomes likely, and the first loss is the one by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from handed import folder_of, saved_policy
from torch import Tensor

from rlhf_plugins import PluginError, PolicyLoss
from rlhf_plugins.arithmetic import masked
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Base, StageResult
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

FEW = {"max_steps": 1, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True}
LETTERS = torch.tensor([[15, 16, 3, 4, 1]])  # how is ant bee <eos>


def logged() -> list[Group]:
    """A good response of 1 and a bad one of 0 to each prompt."""
    return [replace(group, ranks=None, ratings={"reward": (1.0, 0.0)}) for group in tiny_pairs(24)]


def trained(base: Base, folder: Path, groups: list[Group], **options: Any) -> StageResult:
    stage = component("stage", {"use": "offline", "trainer": FEW, **options})
    result: StageResult = stage.run(tiny_run(base, folder, groups))
    return result


def log_probs(model: Any, ids: torch.Tensor, start: int) -> torch.Tensor:
    with torch.no_grad():
        logits = model(ids).logits.log_softmax(-1)
    return logits[0, start - 1 : -1].gather(1, ids[0, start:, None]).squeeze(1)


def test_good_words_become_likelier_than_bad_ones(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    loss = {"use": "advantage_weighted", "beta": 0.3}  # weights of 20, the limit, and of e^(-1 / .3) = .04
    result = trained(base, tmp_path / "run", logged(), trainer={**FEW, "max_steps": 8}, policy_loss=loss)
    before, after = load_causal(base), saved_policy(base, folder_of(result.policies))
    with torch.no_grad():
        gained = [model(torch.tensor([[15, 16]])).logits[0, -1].log_softmax(-1).exp() for model in (before, after)]
    good, bad = ((gained[1] - gained[0])[words].sum() for words in (slice(3, 9), slice(9, 15)))
    assert good > bad + 0.1


def test_the_first_loss_is_worked_by_hand(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    group = Group("how is\n", ("ant bee", "mud"), ratings={"reward": (2.0, 0.0)})  # advantages 1 and -1
    result = trained(base, tmp_path / "run", [group], policy_loss={"use": "advantage_weighted", "beta": 0.5})
    model = load_causal(base)
    good, bad = log_probs(model, LETTERS, 2), log_probs(model, torch.tensor([[15, 16, 14, 1]]), 2)
    expected = -(torch.tensor(2.0).exp() * good.sum() + torch.tensor(-2.0).exp() * bad.sum()) / 5  # tokens
    assert dict(result.curves["loss"].points)[1] == pytest.approx(float(expected), rel=1e-3)


class MeanOfResponse(PolicyLoss, off_policy=True, reads_mask=True):
    """-A times the mean log-probability of a response's tokens, at each of them."""

    def __call__(self, log_ratio: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return -advantages * masked.mean(log_ratio, mask, dim=1).unsqueeze(1)


def test_a_loss_that_reads_the_mask_is_given_the_tokens_of_responses(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    run = tiny_run(base, tmp_path / "run", [Group("how is\n", ("ant bee", "mud"), ratings={"reward": (2.0, 0.0)})])
    stage = replace(component("stage", {"use": "offline", "trainer": FEW}), policy_loss=MeanOfResponse())
    good, bad = (log_probs(load_causal(base), ids, 2) for ids in (LETTERS, torch.tensor([[15, 16, 14, 1]])))
    expected = -(3 * good.mean() - 2 * bad.mean()) / 5  # tokens
    assert dict(stage.run(run).curves["loss"].points)[1] == pytest.approx(float(expected), rel=1e-3)


def test_held_out_rewards_that_are_equal_are_not_evaluated_on(tmp_path: Path, caplog: Any) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", logged())
    equal = tuple(replace(group, ranks=None, ratings={"reward": (1.0, 1.0)}) for group in run.data.test)
    run = replace(run, data=replace(run.data, test=equal))
    trainer = {**FEW, "eval_strategy": "steps", "eval_steps": 1}
    result = component("stage", {"use": "offline", "trainer": trainer}).run(run)
    assert "loss" in result.curves
    assert "eval_loss" not in result.curves
    assert "no response is better or worse than another" in caplog.text


def test_a_loss_of_own_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="policy_loss: clip learns from what the policy itself"):
        component("stage", {"use": "offline", "policy_loss": "clip"})
