"""The stage `named_reward`: gives any reward a name, by which later stages and commands know it. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run import Adapter, Run, StageResult
from rlhf_plugins.contract.run_kinds import Reward, Stage
from rlhf_plugins.contract.workload import Workload


@dataclass(frozen=True)
class NamedReward(Stage, makes={"reward"}):
    """Hands on a reward as if it had been trained here, such as the one that a DPO policy implies.

    `evaluate_reward` then measures it, best-of-n of `evaluate` chooses by it, the reward `model` means it, and
    `rlhf score RUN#NAME` scores rows with it.
    """

    reward: Reward = uses("reward")
    name: str = "named_reward"

    def workload(self, adapter: Adapter | None) -> Workload:
        """None of its own."""
        return Workload([])

    def run(self, run: Run) -> StageResult:
        """Raises RunError where the reward cannot be had."""
        spec = run.spec(self.reward)
        before = [name for result in run.finished for name in result.rewards]
        spec = _latest(spec, before[-1]) if before else spec
        run.open("reward", spec)
        return StageResult(rewards={self.name: spec})


def _latest(spec: Any, name: str) -> Any:
    """A spec in which the latest reward model has its name, since from now on this stage's is the latest."""
    if isinstance(spec, list | tuple):
        return [_latest(one, name) for one in spec]
    if not isinstance(spec, Mapping):
        return spec
    own = {"stage": name} if spec.get("use") == "model" and spec.get("stage") is None else {}
    return {key: _latest(value, name) for key, value in spec.items()} | own


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"named_reward": NamedReward}
