"""The stage `blend`: one policy of several, with weights tuned on a reward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import Field

from rlhf_bench.rewards import known_rewards, mean_reward
from rlhf_plugins import Reward, Run, RunError, Section, Stage, StageResult, hookimpl, uses


@dataclass(frozen=True)
class Blend(Stage, makes={"policy"}, takes={"policy"}):
    """pi = sum_i alpha_i pi_i over earlier policies, alpha on a grid of the simplex, the best by validation reward.

    Over `weights` adapters of one base become one adapter, which costs one policy to sample; over `logits` every policy
    runs for each token. Validation prompts are training prompts, so that held-out ones stay unseen. The corners
    of the grid are the parts themselves: no blend is worse than its best part on the prompts that it was tuned on.
    """

    policies: Annotated[list[str], Field(min_length=2, description="names of earlier policies")]
    reward: Reward = uses("reward", "model")
    over: Annotated[Literal["logits", "weights"], Field(description="what is summed")] = "weights"
    grid: Annotated[int, Field(ge=1, description="steps from 0 to 1 of each alpha")] = 4
    prompts: Annotated[int, Field(ge=1, description="of validation")] = 64
    max_new_tokens: Annotated[int, Field(ge=1, description="where a response is cut")] = 64
    name: str = "blend"
    scored_alone = "each mixture is scored by one"

    def __post_init__(self) -> None:
        if len(set(self.policies)) < len(self.policies):
            raise ValueError(f"policies: each once, got {', '.join(self.policies)}")

    def run(self, run: Run) -> StageResult:
        """Leaves nothing but the words of the mixture, which are opened like any policy's."""
        tried = {alpha: self.tried(run, alpha) for alpha in simplex(len(self.policies), self.grid)}
        best = max(tried, key=lambda alpha: tried[alpha])
        rows = [
            {**dict(zip(self.policies, alpha, strict=True)), "validation reward": value}
            for alpha, value in sorted(tried.items(), key=lambda one: -one[1])
        ]
        text = f"Weights over {self.over}, by the mean reward on {self.prompts} training prompts."
        return StageResult(policies={self.name: self.mixture(run, best)}, sections=[Section("Blends", text, rows)])

    def tried(self, run: Run, alpha: tuple[float, ...]) -> float:
        """The mean validation reward of a mixture; sampled once, also where the run is killed."""

        def make() -> float:
            prompts = run.data.prompts.get("train", ())[: self.prompts]
            if not prompts:
                raise RunError(f"{self.name}: the data has no training prompts to validate on")
            with run.open("generator", self.mixture(run, alpha)) as policy:
                samples = policy.sample(prompts, max_new_tokens=self.max_new_tokens, seed=run.seed)
            return mean_reward(known_rewards(run.open("reward", run.spec(self.reward))(samples)))

        return float(run.once("alpha-" + "-".join(f"{one:.3f}" for one in alpha), make))

    def mixture(self, run: Run, alpha: tuple[float, ...]) -> Mapping[str, Any]:
        """The mixture in a recipe's words, without the parts of weight 0; one part alone is itself."""
        found = {name: spec for result in run.finished for name, spec in result.policies.items()}
        if missing := [name for name in self.policies if name not in found]:
            raise RunError(f"{self.name}: no earlier policy {missing[0]!r} (known: {', '.join(found) or 'none'})")
        parts = [(found[name], weight) for name, weight in zip(self.policies, alpha, strict=True) if weight]
        if len(parts) == 1:
            return parts[0][0]
        specs, weights = zip(*parts, strict=True)
        return {
            "use": "mixture",
            "policies": [dict(spec) for spec in specs],
            "weights": list(weights),
            "over": self.over,
        }


def simplex(parts: int, steps: int) -> Iterator[tuple[float, ...]]:
    """Every division of 1 among the parts in steps of 1 / steps."""
    for bars in combinations(range(steps + parts - 1), parts - 1):
        ends = (-1, *bars, steps + parts - 1)
        yield tuple((after - before - 1) / steps for before, after in zip(ends, ends[1:], strict=False))


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"blend": Blend}
