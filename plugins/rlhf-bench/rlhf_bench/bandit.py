"""The selector `bandit`: short trainings, of which the better half goes on. It knows stages as words, no algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Annotated, Any

from pydantic import Field

from rlhf_bench.rewards import known_rewards, mean_reward
from rlhf_plugins import Budget, Choice, Reward, Run, RunError, Selector, Situation, hookimpl, uses

Choose = Callable[[Situation], list[Choice]]


@dataclass(frozen=True)
class Bandit(Selector):
    """Successive halving (Karnin et al. 2013; Jamieson and Talwalkar 2016) over the algorithms of the stage `auto`.

    Each round trains those that are left with twice the FLOPs of the round before, from the start, scores responses to
    training prompts with the reward, and keeps the better half. The regret is the sum over all T trainings of how far
    each was below the best score; it is reported beside sqrt(T log T), the order of a bandit's regret.
    """

    flops: Annotated[float, Field(gt=0, description="of each training in the first round")]
    reward: Reward = uses("reward", "gold")
    prompts: Annotated[int, Field(ge=1, description="training prompts that are answered for a score")] = 64
    max_new_tokens: Annotated[int, Field(ge=1, description="where a response is cut")] = 64

    def build(self, run: Run) -> Choose:
        """It trains, and so it needs the run."""
        return lambda situation: self.choose(run, situation)

    def choose(self, run: Run, situation: Situation) -> list[Choice]:
        """The last one left first, then the others by the round that they reached and their score in it."""
        if not situation.stages:
            raise RunError("selector bandit: nothing says what each algorithm trains; use it in the stage `auto`")
        left, number, pulls = list(situation.algorithms), 0, []
        reached: dict[str, tuple[int, float]] = {}
        while True:
            scores = {name: self.pulled(run, name, situation.stages[name], number) for name in left}
            pulls += list(scores.values())
            reached |= {name: (number, score) for name, score in scores.items()}
            if len(left) == 1:
                break
            left = sorted(left, key=lambda name: -scores[name])[: (len(left) + 1) // 2]
            number += 1
            if len(left) == 1:
                break
        order = sorted(situation.algorithms, key=lambda name: (name in left, *reached[name]), reverse=True)
        return [self.choice(name, reached[name], regret(pulls), len(pulls)) for name in order]

    def choice(self, name: str, reached: tuple[int, float], lost: float, pulls: int) -> Choice:
        """One algorithm's place in words. A single training has no interval."""
        number, score = reached
        flops = self.flops * 2**number
        bound = f"sqrt(T log T) = {sqrt(pulls * log(pulls)):.2f}" if pulls > 1 else "one training"
        why = f"scored {score:.3f} in round {number + 1}, after {flops:.3g} FLOPs"
        return Choice(name, (why, f"regret {lost:.3f} over {pulls} trainings, {bound}"), cost={"flops": flops})

    def pulled(self, run: Run, name: str, stages: Sequence[Mapping[str, Any]], number: int) -> float:
        """The mean reward of an algorithm after a short training."""
        budget = Budget(flops=self.flops * 2**number / len(stages))
        policy: str | None = None
        names: dict[str, str] = {}
        for stage in stages:
            own = f"try{number}-{name}-{stage['name']}"
            words = {"use": stage["stage"], **{key: value for key, value in stage.items() if key != "stage"}}
            if isinstance(reward := words.get("reward"), dict) and reward.get("stage") in names:
                words["reward"] = {**reward, "stage": names[reward["stage"]]}
            start = policy if stage["stage"] in ("preference", "online") else None
            made = run.train(words, name=own, start=start, budget=budget)
            names[stage["name"]] = own
            policy = own if made.policies else policy
        return float(run.once(f"try{number}-{name}-score", lambda: self.scored(run, policy)))

    def scored(self, run: Run, policy: str | None) -> float:
        """The mean reward of one response to each training prompt."""
        prompts = run.data.prompts.get("train", ())[: self.prompts]
        with run.policy(policy) as handle:
            samples = handle.sample(prompts, max_new_tokens=self.max_new_tokens, seed=run.seed)
        return mean_reward(known_rewards(run.open("reward", run.spec(self.reward))(samples)))


def regret(scores: Sequence[float]) -> float:
    """How far all trainings together were below the best one."""
    return sum(max(scores) - score for score in scores)


@hookimpl
def register_selector() -> dict[str, type]:
    """The selector of this file."""
    return {"bandit": Bandit}
