"""A guest stage as another package would write it: it imports the public API alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from statistics import mean
from typing import Any

from rlhf_plugins import Comparison, Data, Evaluation, Group, Run, Stage, StageResult

DPO = {"use": "preference", "trainer": {"max_steps": 2, "per_device_train_batch_size": 2, "disable_tqdm": True}}


@dataclass(frozen=True)
class SelfImprove(Stage, makes={"policy", "data", "evaluation"}):
    """DPO on the policy's own responses, round by round; a round is kept where its mean reward is higher."""

    reward: str = "gold"
    k: int = 3
    rounds: int = 2
    name: str = "improve"

    def run(self, run: Run) -> StageResult:
        prompts, best = [group.prompt for group in run.data.prompts["train"][:6]], None
        scores = {"start": run.once("score-start", lambda: self.scores(run, None, prompts))}
        specs: dict[str, Any] = {}
        for name in [f"r{number}" for number in range(self.rounds)]:
            pairs = run.once(f"pairs-{name}", lambda: self.pairs(run, best, prompts))  # noqa: B023 (called at once)
            data = Data(tuple(_group(*pair) for pair in pairs), prompts=run.data.prompts)
            specs[name] = run.train(DPO, name=name, data=data, start=best).policies[name]
            scores[name] = run.once(f"score-{name}", lambda: self.scores(run, name, prompts))  # noqa: B023
            if mean(scores[name]) >= mean(scores[best or "start"]):
                best = name
            if run.stopped():
                break
        policies = {"winner": specs[best]} if best else {}
        return StageResult(policies, data=data, evaluation=Evaluation(self.reward, "start", prompts, scores))

    def scores(self, run: Run, policy: str | None, prompts: list[str]) -> list[float]:
        samples = run.policy(policy).sample(prompts, max_new_tokens=6, seed=run.seed)
        return [float(one) for one in run.open("reward", self.reward)(samples).reward]

    def pairs(self, run: Run, policy: str | None, prompts: list[str]) -> list[Any]:
        samples = run.policy(policy).sample(prompts, self.k, max_new_tokens=6, seed=run.seed)
        rewards = run.open("reward", self.reward)(samples).reward.tolist()
        rows = list(zip(samples.responses, rewards, strict=True))
        groups = [rows[i : i + self.k] for i in range(0, len(rows), self.k)]
        return [(prompt, *zip(*group, strict=True)) for prompt, group in zip(prompts, groups, strict=True)]


def _group(prompt: str, responses: Sequence[str], rewards: Sequence[float]) -> Group:
    order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    best, worst = order[0], order[-1]
    probability = 1 / (1 + exp(rewards[worst] - rewards[best]))
    return Group(prompt, tuple(responses), compared=(Comparison(best, worst, probability=probability),))
