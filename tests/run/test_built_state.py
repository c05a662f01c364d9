"""What a KL, a loss and an advantage build may remember: it acts in their place, and goes on after a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Killed, kill_at
from torch import Tensor, nn

from rlhf_plugins import (
    KL,
    Checkpoint,
    KLTerm,
    PairLogps,
    PluginError,
    PreferenceLoss,
    RankedScores,
    RewardLoss,
    StageResult,
    component,
    session,
)
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.data.digests import of_folder
from rlhf_plugins.testing import tiny_base, tiny_run
from rlhf_plugins.testing.subject import Subject

ROLLOUT = {"num_generations": 2, "max_completion_length": 4, "logging_steps": 1, "max_steps": 3, "disable_tqdm": True}
PAIRS = {"per_device_train_batch_size": 2, "logging_steps": 1, "max_steps": 3, "disable_tqdm": True}


class Integral:
    """coef <- coef + gain times the sum of all KL so far."""

    def __init__(self, gain: float) -> None:
        self.gain, self.sum = gain, 0.0

    def __call__(self, log_ratio: Tensor) -> KLTerm:
        return KLTerm(off_reward=log_ratio.detach())

    def adapted(self, coef: float, kl: float, episodes: int) -> float:
        self.sum += abs(kl)
        return coef + self.gain * self.sum

    def state_dict(self) -> dict[str, float]:
        return {"sum": self.sum}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.sum = state["sum"]


@dataclass(frozen=True)
class Integrating(KL):
    coef: float = 0.125

    def build(self) -> Integral:
        return Integral(0.5)


@dataclass(frozen=True)
class Against(PreferenceLoss):
    """-log sigmoid(margin - mean of all margins so far)."""

    def build(self) -> Callable[[PairLogps], Tensor]:
        return Remembering()


@dataclass(frozen=True)
class RewardAgainst(RewardLoss):
    """The same of rewards."""

    def build(self) -> Callable[[Any], Tensor]:
        return Remembering()


class Remembering:
    def __init__(self) -> None:
        self.sum, self.count = torch.zeros(()), 0

    def __call__(self, logps: PairLogps | RankedScores) -> Tensor:
        margin = logps.chosen - logps.rejected
        self.sum, self.count = self.sum + margin.detach().sum(), self.count + len(margin)
        return -torch.nn.functional.logsigmoid(margin - self.sum / self.count)

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sum, self.count = state["sum"], state["count"]


@dataclass(frozen=True)
class Heavy(PreferenceLoss):
    def build(self) -> nn.Module:
        return nn.Linear(1, 1)


STAGES: dict[str, Any] = {
    "online": lambda: replace(component("stage", "online", reward="gold", trainer=ROLLOUT), kl=Integrating()),
    "preference": lambda: replace(component("stage", "preference", trainer=PAIRS), loss=Against()),
    "reward_model": lambda: replace(
        component("stage", "reward_model", head={"use": "ensemble", "members": 2}, trainer=PAIRS), loss=RewardAgainst()
    ),
}


def trained(use: str, folder: Path) -> StageResult:
    base = replace(tiny_base(folder.parent / "base"), adapter=Adapter(r=2))
    known = Subject.of(RewardAgainst, None, {}).registry
    data = tiny_run(base, folder.parent / "rows").data
    run = session(base, data, folder, registry=known, checkpoint=Checkpoint("1 steps"))
    return run.train(STAGES[use](), name="part")


@pytest.mark.parametrize("use", STAGES)
def test_it_goes_on_bit_for_bit(use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(use, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(3, patch)
        with pytest.raises(Killed):
            trained(use, tmp_path / "killed")
    trained(use, tmp_path / "killed")
    assert of_folder(tmp_path / "killed" / "part") == of_folder(tmp_path / "whole" / "part")


def test_the_coefficient_follows_what_the_kl_built(tmp_path: Path) -> None:
    """The first KL is 0; each later one adds all KL so far, times 0.5."""
    curves = trained("online", tmp_path / "run").curves
    coefs, kls = ([value for _, value in curves[name].points] for name in ("kl_coef", "kl"))
    assert coefs == pytest.approx([0.125, 0.125, 0.125 + 0.5 * abs(kls[1])])
    assert kls[1] != 0


def test_a_kl_hands_down_what_its_object_lacks() -> None:
    kl = Integrating().acting()
    assert (kl.coef, kl.accepts(2.0, 1.0), kl.constrains) == (0.125, True, False)
    assert kl.adapted(1.0, 2.0, 8) == 2.0  # 1 + 0.5 * 2, the object's own


def test_a_part_of_a_sum_may_not_remember() -> None:
    plain = component("preference_loss", "sum")
    with pytest.raises(ValueError, match="losses: Against remembers earlier pairs, which a part of a sum cannot"):
        replace(plain, losses=(Against(),), weights=None)


def test_weights_that_nothing_would_train_are_refused(tmp_path: Path) -> None:
    stage = replace(component("stage", "preference", trainer=PAIRS), loss=Heavy())
    base = replace(tiny_base(tmp_path / "base"), adapter=Adapter(r=2))
    with pytest.raises(PluginError, match="Heavy of .* built weights, which are not trained here"):
        session(base, tiny_run(base, tmp_path / "rows").data, tmp_path / "run").train(stage, name="part")
