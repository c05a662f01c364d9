"""The stage `pareto`: a policy for each weighting of several objectives, and the front that they reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Annotated, Any

from pydantic import Field

from rlhf_objectives.front import front, hypervolume, weights
from rlhf_plugins import (
    Earlier,
    PluginError,
    Reward,
    Run,
    RunError,
    Section,
    Stage,
    StageResult,
    component,
    hookimpl,
    uses,
)

START = "start"
FROM = Earlier("policy", ("base", "previous"))
Scores = dict[str, list[list[float]]]  # policy -> objective -> held-out prompt


@dataclass(frozen=True)
class Pareto(Stage, makes={"policy"}):
    """Trains a policy on sum_i w_i r_i for each w of a lattice, and measures every r_i of each on held-out prompts.

    The weights are all multiples of 1 / (points - 1) that sum to 1. A policy is on the front if no other has at least
    as much of every objective and more of one; earlier policies of the run are measured beside. Weighted sums reach
    the convex part of a front alone (Das and Dennis 1997). `front.svg` in the stage's folder shows it; the policies
    are handed on as `NAME-0` and so on.
    """

    names: Annotated[list[str], Field(min_length=2, description="of the objectives, in their order")]
    objectives: tuple[Reward, ...] = uses("reward")
    points: Annotated[int, Field(ge=2, description="weights along each edge, both ends included")] = 5
    online: Annotated[dict[str, Any], Field(description="options of the stage `online`, without `reward`")] = field(
        default_factory=dict
    )
    from_: Annotated[
        str, Field(description="the policy that each starts from: `base`, `previous`, or an earlier stage's"), FROM
    ] = "previous"
    prompts: Annotated[int, Field(ge=2, description="held-out prompts")] = 128
    max_new_tokens: Annotated[int, Field(ge=1, description="where an answer to one is cut")] = 64
    name: str = "pareto"

    def __post_init__(self) -> None:
        if len(self.names) != len(self.objectives) or len(set(self.names)) < len(self.names):
            raise ValueError(f"names: {len(self.objectives)} objectives need as many different names")
        for given in {"reward", "name", "data", "from"} & self.online.keys():
            raise ValueError(f"online.{given}: `pareto` gives it")
        try:
            self.stage(next(self.weights))
        except PluginError as error:
            raise ValueError(f"online: {error}") from error

    @property
    def weights(self) -> Any:
        """Those of each policy, the first objective's largest first."""
        return weights(len(self.objectives), self.points)

    def stage(self, weight: Sequence[float]) -> Any:
        """The training under one weighting."""
        reward = component("reward", "weighted", parts=list(self.objectives), weights=list(weight))
        return component("stage", "online", reward=reward, **self.online)

    def run(self, run: Run) -> StageResult:
        """Raises RunError where there are fewer than two held-out prompts, or an objective abstains on an answer."""
        earlier = [name for result in run.finished for name in result.policies if not name.startswith(f"{self.name}-")]
        scores = {name: self.measured(run, name) for name in dict.fromkeys([START, *earlier])}
        specs, given = {}, {}
        for place, weight in enumerate(self.weights):
            name = f"{self.name}-{place}"
            specs[name] = run.train(self.stage(weight), name=name).policies[name]
            scores[name], given[name] = self.measured(run, name), weight
        means = {name: [fmean(values) for values in each] for name, each in scores.items()}
        best = [list(means)[place] for place in front(list(means.values()))]
        volume = hypervolume(list(means.values()), means[START])
        self.plot(run, scores, best)
        return StageResult(
            policies=specs,
            sections=[self.section(scores, given, best, volume)],
            metrics={"hypervolume": volume, "front": best, "means": means},
        )

    def measured(self, run: Run, name: str) -> list[list[float]]:
        """Every objective of a policy's answers to the held-out prompts, once."""
        prompts = list(run.data.prompts.get("test", ()))[: self.prompts]
        if len(prompts) < 2:
            raise RunError("pareto: at least two held-out prompts are needed")

        def make() -> Any:
            with run.policy(None if name == START else name) as policy:
                samples = policy.sample(prompts, max_new_tokens=self.max_new_tokens, seed=run.seed)
            answers: list[Any] = [reward.build(run)(samples) for reward in self.objectives]
            if any(found.abstained is not None and found.abstained.any() for found in answers):
                raise RunError("pareto: an objective abstained on a held-out answer, so that no mean can be compared")
            return [found.reward.tolist() for found in answers]

        found: list[list[float]] = run.once(f"measured-{name}", make)
        return found

    def section(
        self, scores: Scores, given: Mapping[str, Sequence[float]], best: Sequence[str], volume: float
    ) -> Section:
        """A row a policy: weights, objectives with standard errors, and whether it is on the front."""
        rows = []
        for name, each in scores.items():
            row = {"policy": name, "weights": ", ".join(f"{w:.3g}" for w in given.get(name, ()))}
            row |= {of: _shown(values) for of, values in zip(self.names, each, strict=True)}
            rows.append({**row, "front": "yes" if name in best else ""})
        text = (
            f"Each weighting starts from {self.from_}. Means over {len(scores[START][0])} held-out prompts with "
            f"standard errors. The front dominates a volume of {volume:.4g} above the start; front.svg shows it."
        )
        return Section("Pareto front", text, rows)

    def plot(self, run: Run, scores: Scores, best: Sequence[str]) -> None:
        """Writes `front.svg`."""
        from rlhf_objectives.plot import draw

        points = {name: [(fmean(v), _error(v)) for v in each] for name, each in scores.items()}
        draw(run.folder / "front.svg", self.names, points, best)


def _error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5


def _shown(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} +- {_error(values):.3f}"


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"pareto": Pareto}
