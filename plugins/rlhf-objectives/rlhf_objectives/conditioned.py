"""The stage `conditioned`: one policy that reads the weights of several objectives in its prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field

from rlhf_objectives.objectives import WEIGHTS, WORDS, before
from rlhf_objectives.over_weights import OverWeights, shown
from rlhf_plugins import Group, Run, RunError, StageResult, hookimpl


@dataclass(frozen=True)
class Conditioned(OverWeights, makes={"policy"}):
    """Trains one policy on sum_i w_i r_i(x, y), with w drawn for each prompt and put before it in words.

    The policy is pi(y | w, x), w any weighting of the lattice of `pareto`: all multiples of 1 / (points - 1) that sum
    to 1 (weights in the prompt as by Wang et al. 2024, arXiv 2402.18571; loss-conditional training, Dosovitskiy and
    Djolonga 2020). Every objective is measured at every weighting, on prompts without words for the rewards; earlier
    policies of the run are measured beside, and `front.svg` in the stage's folder shows all. Whoever uses the policy
    puts the same words before a prompt.
    """

    words: Annotated[
        list[str], Field(description="for each weighting in its order; without: such as `helpful: 0.75, brief: 0.25`")
    ] = field(default_factory=list)
    name: str = "conditioned"

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(self.weights)
        if self.words and (len(self.words) != count or len(set(self.words)) < count):
            raise ValueError(f"words: {count} weightings need as many different words, got {len(set(self.words))}")

    def stage(self, weight: Sequence[float]) -> Any:
        """The training, whatever the weighting."""
        from rlhf_plugins import component

        return component(
            "stage",
            "online",
            reward=component("reward", "conditioned", objectives=list(self.objectives)),
            **self.online,
        )

    def spoken(self, weight: Sequence[float]) -> str:
        """A weighting in words."""
        if self.words:
            return self.words[self.weights.index(tuple(weight))]
        return ", ".join(f"{name}: {w:.3g}" for name, w in zip(self.names, weight, strict=True)) + "\n"

    def asked_for(self, group: Group, weight: Sequence[float]) -> Group:
        """A prompt with words before it, and columns of the weights and of the words."""
        words = self.spoken(weight)
        columns = {**group.columns, WEIGHTS: list(weight), WORDS: words}
        return replace(group, prompt=before(group.prompt, words), columns=columns)

    def run(self, run: Run) -> StageResult:
        """Raises RunError as `pareto` does, and where the model reads the words of two weightings alike."""
        self.refuse_equal(run)
        draw, name = random.Random(run.seed), self.name
        drawn = {
            split: tuple(self.asked_for(group, draw.choice(self.weights)) for group in groups)
            for split, groups in run.data.prompts.items()
        }
        scores, given = self.earlier(run), {}
        made = run.train(self.stage(self.weights[0]), name=name, data=replace(run.data, prompts=drawn))
        for place, weight in enumerate(self.weights):
            rows = [self.asked_for(group, weight) for group in self.asked(run)]
            at = f"{name}-{place}"
            scores[at], given[at] = self.measured(run, at, name, rows), weight
        return self.result(run, scores, given, policies={name: made.policies[name]})

    def refuse_equal(self, run: Run) -> None:
        """Raises RunError where the words of two weightings are the same tokens, such as unknown ones."""
        prompt, seen = self.asked(run)[0].prompt, dict[tuple[int, ...], Sequence[float]]()
        with run.policy() as policy:
            for weight in self.weights:
                ids = tuple(policy.encode([before(prompt, self.spoken(weight))], ["a"]).prompt_ids[0])
                if ids in seen:
                    same = f"{shown(seen[ids])} and {shown(weight)}"
                    raise RunError(f"{self.name}: words: the model reads those of the weights {same} alike")
                seen[ids] = weight

    @property
    def trained(self) -> str:
        """What was trained."""
        return f"One policy, from {self.from_}, read {len(self.weights)} weightings in its prompt."


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"conditioned": Conditioned}
