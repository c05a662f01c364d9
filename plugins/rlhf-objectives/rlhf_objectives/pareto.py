"""The stage `pareto`: a policy for each weighting of several objectives, and the front that they reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_objectives.over_weights import OverWeights
from rlhf_plugins import Run, StageResult, hookimpl


@dataclass(frozen=True)
class Pareto(OverWeights, makes={"policy"}):
    """Trains a policy on sum_i w_i r_i for each w of a lattice, and measures every r_i of each on held-out prompts.

    The weights are all multiples of 1 / (points - 1) that sum to 1. A policy is on the front if no other has at least
    as much of every objective and more of one; earlier policies of the run are measured beside. Weighted sums reach
    the convex part of a front alone (Das and Dennis 1997). `front.svg` in the stage's folder shows it; the policies
    are handed on as `NAME-0` and so on.
    """

    name: str = "pareto"

    def stage(self, weight: Sequence[float]) -> Any:
        """The training under one weighting."""
        from rlhf_plugins import component

        reward = component("reward", "weighted", parts=list(self.objectives), weights=list(weight))
        return component("stage", "online", reward=reward, **self.online)

    def run(self, run: Run) -> StageResult:
        """Raises RunError where there are fewer than two held-out prompts, or an objective abstains on an answer."""
        scores, specs, given = self.earlier(run), {}, {}
        for place, weight in enumerate(self.weights):
            name = f"{self.name}-{place}"
            specs[name] = run.train(self.stage(weight), name=name).policies[name]
            scores[name], given[name] = self.measured(run, name), weight
        return self.result(run, scores, given, policies=specs)

    @property
    def trained(self) -> str:
        """What each weighting starts from."""
        return f"Each weighting starts from {self.from_}."


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"pareto": Pareto}
