"""What the stages `pareto` and `conditioned` share: weightings, what is measured at each, and the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Annotated, Any

from pydantic import Field

from rlhf_objectives.front import front, hypervolume, weights
from rlhf_objectives.objectives import read_as
from rlhf_plugins import Earlier, PluginError, Reward, Run, RunError, Section, Stage, StageResult, uses

START = "start"
FROM = Earlier("policy", ("base", "previous"))
Scores = dict[str, list[list[float]]]  # policy -> objective -> held-out prompt


@dataclass(frozen=True)
class OverWeights(Stage, makes={"policy"}):
    """Objectives, the lattice of their weights, and how a policy is trained and measured."""

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

    def __post_init__(self) -> None:
        if len(self.names) != len(self.objectives) or len(set(self.names)) < len(self.names):
            raise ValueError(f"names: {len(self.objectives)} objectives need as many different names")
        for given in {"reward", "name", "data", "from"} & self.online.keys():
            raise ValueError(f"online.{given}: `{self.name}` gives it")
        try:
            self.stage(self.weights[0])
        except PluginError as error:
            raise ValueError(f"online: {error}") from error

    @property
    def weights(self) -> list[tuple[float, ...]]:
        """The weights of the objectives at each point of the lattice, the first objective's largest first."""
        return list(weights(len(self.objectives), self.points))

    def stage(self, weight: Sequence[float]) -> Any:
        """The training under one weighting."""
        raise NotImplementedError

    def earlier(self, run: Run) -> Scores:
        """The objectives of where it starts and of earlier policies."""
        own = (self.name, *(f"{self.name}-{place}" for place in range(len(self.weights))))
        found = [name for result in run.finished for name in result.policies if name not in own]
        return {name: self.measured(run, name) for name in dict.fromkeys([START, *found])}

    def asked(self, run: Run) -> list[Any]:
        """The held-out prompts. Raises RunError where there are fewer than two."""
        rows = list(run.data.prompts.get("test", ()))[: self.prompts]
        if len(rows) < 2:
            raise RunError(f"{self.name}: at least two held-out prompts are needed")
        return rows

    def measured(self, run: Run, name: str, policy: str | None = None, rows: Sequence[Any] = ()) -> list[list[float]]:
        """Every objective of a policy's answers to the held-out prompts, once.

        Args:
            run: the stage's.
            name: the name of the measurement, and of the policy where it has no other.
            policy: the policy that answers.
            rows: the prompts as they are put to it; none are those of the data.
        """
        from rlhf_plugins import cut_off

        asked = self.asked(run)

        def make() -> Any:
            with run.policy(None if name == START else policy or name) as handle:
                samples = handle.sample(rows or asked, max_new_tokens=self.max_new_tokens, seed=run.seed)
            cut, prompts = cut_off(run.base), [row.prompt for row in asked]
            answers: list[Any] = [read_as(reward.build(run), samples, prompts, cut) for reward in self.objectives]
            if any(found.abstained is not None and found.abstained.any() for found in answers):
                raise RunError(
                    f"{self.name}: an objective abstained on a held-out answer, so that no mean can be compared"
                )
            return [found.reward.tolist() for found in answers]

        found: list[list[float]] = run.once(f"measured-{name}", make)
        return found

    def result(self, run: Run, scores: Scores, given: Mapping[str, Sequence[float]], **parts: Any) -> StageResult:
        """The front of all that was measured, `given` the weights of what this stage trained; draws it."""
        from rlhf_objectives.plot import draw

        means = {name: [fmean(values) for values in each] for name, each in scores.items()}
        best = [list(means)[place] for place in front(list(means.values()))]
        volume = hypervolume(list(means.values()), means[START])
        own = hypervolume([means[name] for name in given], means[START])
        points = {name: [(fmean(v), _error(v)) for v in each] for name, each in scores.items()}
        draw(run.folder / "front.svg", self.names, points, best)
        text = (
            f"{self.trained} Means over {len(scores[START][0])} held-out prompts with standard errors. Above the start "
            f"the front dominates a volume of {volume:.4g}, and the policies of this stage alone {own:.4g}; front.svg "
            "shows it."
        )
        return StageResult(
            sections=[Section("Pareto front", text, self.rows(scores, given, best))],
            metrics={"hypervolume": volume, "own_hypervolume": own, "front": best, "means": means},
            **parts,
        )

    @property
    def trained(self) -> str:
        """A sentence on what was trained."""
        raise NotImplementedError

    def rows(self, scores: Scores, given: Mapping[str, Sequence[float]], best: Sequence[str]) -> list[dict[str, str]]:
        """A row a policy: weights, objectives with standard errors, and whether it is on the front."""
        rows = []
        for name, each in scores.items():
            row = {"policy": name, "weights": shown(given.get(name, ()))}
            row |= {of: f"{fmean(v):.3f} +- {_error(v):.3f}" for of, v in zip(self.names, each, strict=True)}
            rows.append({**row, "front": "yes" if name in best else ""})
        return rows


def shown(weight: Sequence[float]) -> str:
    """Weights as a reader sees them."""
    return ", ".join(f"{w:.3g}" for w in weight)


def _error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5
