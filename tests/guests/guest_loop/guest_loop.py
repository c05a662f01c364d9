"""DPO on a policy's own samples, in rounds: sample, score, compare with soft labels, train, keep the better policy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import exp
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field

from rlhf_plugins import Comparison, Data, Evaluation, Group, Origin, Reward, Run, Stage, StageResult, hookimpl, uses

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Loop(Stage, makes={"policy", "data", "evaluation"}, writes={"probability"}):
    """Iterated DPO with soft labels p = 1 / (1 + exp(-(r_a - r_b) / temperature)), and a gate after each round."""

    reward: Reward = uses("reward", "gold")
    training: Stage = uses("stage", "preference")
    rounds: Annotated[int, Field(ge=1, description="samplings, each with a training after it")] = 2
    k: Annotated[int, Field(ge=2, description="responses to a prompt")] = 4
    temperature: Annotated[float, Field(gt=0, description="of the soft labels, in rewards")] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1, description="where a response is cut")] = 48
    name: str = "loop"

    def run(self, run: Run) -> StageResult:
        groups: list[Group] = []
        judged = {"start": self.responses(run, "start", None, "test", 1)}
        specs: dict[str, Any] = {"start": {"use": "base"}}
        best = "start"
        for number in range(self.rounds):
            parent = None if best == "start" else best
            name = f"{self.name}-{number}"
            groups += map(self.group, self.responses(run, name, parent, "train", self.k, run.seed + number))
            specs |= run.train(self.training, name=name, data=Data(tuple(groups)), start=parent).policies
            judged[name] = self.responses(run, name, name, "test", 1)
            best = max(best, name, key=lambda one: fmean(row["scores"][0] for row in judged[one]))
        scores = {name: [row["scores"][0] for row in rows] for name, rows in judged.items()}
        prompts = [row["prompt"] for row in judged["start"]]
        evaluation = Evaluation(str(run.spec(self.reward)["use"]), "start", prompts, scores)
        return StageResult({self.name: specs[best]}, data=Data(tuple(groups)), evaluation=evaluation)

    def responses(self, run: Run, name: str, policy: str | None, split: str, n: int, seed: int = 0) -> Rows:
        """`n` scored responses of a policy to each prompt of a split: sampled once, read from disk after a kill."""
        prompts = [group.prompt for group in run.data.prompts[split]]

        def make() -> Rows:
            samples = run.policy(policy).sample(prompts, n, max_new_tokens=self.max_new_tokens, seed=seed)
            scores = run.open("reward", run.spec(self.reward))(samples).reward.view(-1, n).tolist()
            texts = [list(samples.responses[at : at + n]) for at in range(0, len(samples.responses), n)]
            rows = zip(prompts, texts, scores, strict=True)
            return [{"prompt": prompt, "responses": group, "scores": score} for prompt, group, score in rows]

        return run.once(f"{name}-{split}", make)

    def group(self, row: dict[str, Any]) -> Group:
        """A prompt's responses, each pair compared once with a soft label."""
        compared = []
        for a, b in combinations(range(self.k), 2):
            better, worse = (a, b) if row["scores"][a] >= row["scores"][b] else (b, a)
            lead = row["scores"][better] - row["scores"][worse]
            compared.append(Comparison(better, worse, probability=1 / (1 + exp(-lead / self.temperature))))
        return Group(row["prompt"], tuple(row["responses"]), compared=tuple(compared), origin=Origin(self.name))


@hookimpl
def register_stage() -> dict[str, type]:
    return {"loop": Loop}
