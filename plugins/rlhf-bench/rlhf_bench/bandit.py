"""The selector `bandit`: short trainings, of which the better half goes on, or those that may be best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, sqrt
from statistics import fmean
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from rlhf_bench.rewards import known_rewards, mean_reward
from rlhf_plugins import Budget, Choice, Data, Reward, Run, RunError, Selector, Situation, component, hookimpl, uses

Choose = Callable[[Situation], list[Choice]]
Pull = Callable[[str, int], float]  # an algorithm and the number of the round or the training -> its score
Tried = dict[str, list[float]]  # the scores of each algorithm in order, the best algorithm first
EACH = 4  # trainings of an algorithm by UCB, where a recipe does not say how many in all


@dataclass(frozen=True)
class Bandit(Selector):
    """Successive halving or UCB over the algorithms of the stage `auto`.

    `halving` (Karnin et al. 2013; Jamieson and Talwalkar 2016): each round trains those that are left with twice the
    FLOPs of the round before, from the start, scores responses to training prompts with the reward, and keeps the
    better half. The regret is the sum over all T trainings of how far each was below the best score.

    `ucb` (Auer et al. 2002, UCB1): T trainings of equal FLOPs, each on training rows drawn with replacement, each of
    the algorithm with the highest mean + R sqrt(2 log t / n) after t trainings, n of its own, with R the range of the
    scores so far. The regret is counted from the highest mean.

    Either is reported beside sqrt(T log T), the order of a bandit's regret.
    """

    flops: Annotated[float, Field(gt=0, description="of each training in the first round")]
    reward: Reward = uses("reward", "gold")
    by: Literal["halving", "ucb"] = "halving"
    pulls: Annotated[
        Annotated[int, Field(gt=0)] | None, Field(description="T of `ucb`; null is four for each algorithm")
    ] = None
    prompts: Annotated[int, Field(ge=1, description="training prompts that are answered for a score")] = 64
    max_new_tokens: Annotated[int, Field(ge=1, description="where a response is cut")] = 64
    scored_alone = "each training is scored by one"

    def __post_init__(self) -> None:
        """Raises ValueError for a number of trainings that nothing reads."""
        if self.pulls is not None and self.by == "halving":
            raise ValueError("pulls: halving trains each round's algorithms once; it is an option of `by: ucb`")

    def build(self, run: Run) -> Choose:
        """It trains, and so it needs the run."""
        return lambda situation: self.choose(run, situation)

    def choose(self, run: Run, situation: Situation) -> list[Choice]:
        """The best first. Raises RunError outside the stage `auto`, or with fewer trainings than algorithms."""
        tried = self.tried(run, situation)
        lost = regret(self.below(tried))
        return [self.choice(name, of, lost) for name, of in tried.items()]

    def tried(self, run: Run, situation: Situation) -> Tried:
        """Trains, and scores. Raises RunError as `choose` does."""
        names, count = situation.algorithms, self.pulls or EACH * len(situation.algorithms)
        if not situation.stages:
            raise RunError("selector bandit: nothing says what each algorithm trains; use it in the stage `auto`")
        if self.by == "halving":
            return halving(lambda name, n: self.pulled(run, f"try{n}-{name}", situation.stages[name], 2**n), names)
        if count < len(names):
            raise RunError(f"selector bandit: pulls: {count}, fewer than the {len(names)} algorithms")
        return ucb(
            lambda name, n: self.pulled(run, f"pull{n}-{name}", situation.stages[name], 1, drawn(run, n)), names, count
        )

    def below(self, tried: Tried) -> list[float]:
        """How far each training was below the best: the highest score of halving, the highest mean of UCB."""
        best = max(map(max if self.by == "halving" else fmean, tried.values()))
        return [best - score for of in tried.values() for score in of]

    def choice(self, name: str, scores: Sequence[float], lost: str) -> Choice:
        """One algorithm's place in words. Trainings that chose which is trained have no interval."""
        last = self.flops * 2 ** (len(scores) - 1)
        why, spent = f"scored {scores[-1]:.3f} in round {len(scores)}, after {last:.3g} FLOPs", 2 * last - self.flops
        if self.by == "ucb":
            why = f"scored {fmean(scores):.3f} in the mean of {len(scores)} trainings of {self.flops:.3g} FLOPs"
            spent = self.flops * len(scores)
        return Choice(name, (why, lost), cost={"spent_flops": spent})

    def pulled(
        self, run: Run, label: str, stages: Sequence[Mapping[str, Any]], times: int, data: Data | None = None
    ) -> float:
        """The mean reward of an algorithm after a short training."""
        budget = Budget(flops=self.flops * times / len(stages))
        policy: str | None = None
        names: dict[str, str] = {}
        for stage in stages:
            own = f"{label}-{stage['name']}"
            words = {"use": stage["stage"], **{key: value for key, value in stage.items() if key != "stage"}}
            if isinstance(reward := words.get("reward"), dict) and reward.get("stage") in names:
                words["reward"] = {**reward, "stage": names[reward["stage"]]}
            makes = component("stage", words["use"], **{k: v for k, v in words.items() if k != "use"}).makes
            start = policy if "policy" in makes else None
            made = run.train(words, name=own, data=data, start=start, budget=budget)
            names[stage["name"]] = own
            policy = own if made.policies else policy
        return float(run.once(f"{label}-score", lambda: self.scored(run, policy)))

    def scored(self, run: Run, policy: str | None) -> float:
        """The mean reward of one response to each training prompt."""
        prompts = run.data.prompts.get("train", ())[: self.prompts]
        with run.policy(policy) as handle:
            samples = handle.sample(prompts, max_new_tokens=self.max_new_tokens, seed=run.seed)
        return mean_reward(known_rewards(run.open("reward", run.spec(self.reward))(samples)))


def halving(pull: Pull, names: Sequence[str]) -> Tried:
    """Round after round of those that are left, of which the better half goes on."""
    scores: Tried = {name: [] for name in names}
    left, number = list(names), 0
    while left:
        for name in left:
            scores[name].append(pull(name, number))
        kept = sorted(left, key=lambda name: -scores[name][-1])[: (len(left) + 1) // 2]
        left, number = kept if len(kept) > 1 else [], number + 1
    return _ordered(scores, lambda name: (len(scores[name]), scores[name][-1]))


def ucb(pull: Pull, names: Sequence[str], pulls: int) -> Tried:
    """UCB1: each once, then the highest mean + R sqrt(2 log t / n)."""
    scores: Tried = {name: [] for name in names}
    for done in range(pulls):
        every = [score for of in scores.values() for score in of]
        scale = max(every) - min(every) if every else 0.0
        bounds = {
            name: (fmean(of) + scale * sqrt(2 * log(done) / len(of)), -len(of)) if of else (float("inf"), 0)
            for name, of in scores.items()
        }
        chosen = max(bounds, key=bounds.__getitem__)
        scores[chosen].append(pull(chosen, done))
    return _ordered(scores, lambda name: (len(scores[name]), fmean(scores[name])))


def _ordered(scores: Tried, key: Callable[[str], Any]) -> Tried:
    return {name: scores[name] for name in sorted(scores, key=key, reverse=True)}


def drawn(run: Run, number: int) -> Data:
    """The run's data with its training rows drawn with replacement, as many as there are."""
    rows = run.data.train
    places = np.random.default_rng([run.seed, number]).integers(len(rows), size=len(rows))
    return replace(run.data, train=tuple(rows[place] for place in places))


def order(trainings: int) -> float:
    """sqrt(T log T), the order of a bandit's regret."""
    return sqrt(trainings * log(trainings))


def regret(below: Sequence[float]) -> str:
    """How far all trainings together were below the best, beside the order of a bandit's regret, in words."""
    count = len(below)
    bound = f"sqrt(T log T) = {order(count):.2f}" if count > 1 else "one training"
    return f"regret {sum(below):.3f} over {count} trainings, {bound}"


@hookimpl
def register_selector() -> dict[str, type]:
    """The selector of this file."""
    return {"bandit": Bandit}
