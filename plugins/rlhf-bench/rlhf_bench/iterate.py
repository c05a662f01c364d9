"""The stages `iterate` and `switch`: trainings in turn, each from where the last one ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field

from rlhf_bench.rewards import known_rewards, mean_reward
from rlhf_plugins import (
    Budget,
    Carry,
    Cost,
    Curve,
    Data,
    Earlier,
    Group,
    Origin,
    Reward,
    Run,
    RunError,
    Section,
    Stage,
    StageResult,
    Step,
    hookimpl,
    uses,
)

Positive = Annotated[float, Field(gt=0)]
Spent = Annotated[Budget | None, Field(description="of all trainings together; sampling is beside it")]
From = Annotated[
    Annotated[str, Field(description="`base`, `previous` (the last stage that made a policy), or an earlier policy")],
    Earlier("policy", ("base", "previous")),
]


@dataclass(frozen=True)
class Iterate(Stage, makes={"policy", "data"}, scores_prompts=True):
    """Online DPO or IPO in rounds: sample, let a reward pick the best and the worst of n, train on these pairs.

    Each round starts from the policy of the last one, which also is its reference (Xu et al. 2023; Guo et al. 2024).
    The reward of a round's samples is that of the policy before the round.
    """

    reward: Reward = uses("reward", "model")
    training: Stage = uses("stage", "preference")
    rounds: Annotated[int, Field(ge=1, description="samplings, each with a training after it")] = 3
    n: Annotated[int, Field(ge=2, description="responses to a prompt")] = 4
    prompts: Annotated[int, Field(ge=1, description="of each round, the next ones in order")] = 64
    max_new_tokens: Annotated[int, Field(ge=1, description="where a response is cut")] = 64
    temperature: Annotated[float, Field(gt=0, description="of sampling")] = 1.0
    carry: Carry = field(default_factory=list)
    budget: Spent = None
    from_: From = "previous"
    name: str = "iterate"

    def __post_init__(self) -> None:
        self.training.keeping(self.carry)

    def run(self, run: Run) -> StageResult:
        """Each round is a part with its own curves."""
        start: str | None = None
        specs: Mapping[str, Any] = {}
        groups: list[Group] = []
        points: list[tuple[int, float]] = []
        for number in range(self.rounds):
            rows = run.once(f"samples-{number}", partial(self.sampled, run, start, number))
            pairs = [Group(p, (a, b), (0, 1), origin=Origin(f"{self.name}:{number}")) for p, a, b in rows["pairs"]]
            points.append((number, rows["reward"]))
            if not pairs:
                raise RunError(f"{self.name}: round {number} has no prompt with responses of different rewards")
            groups += pairs
            part, data = part_of(self.budget, self.rounds), Data(tuple(pairs))
            training, carry = self.training.keeping(self.carry), self.carry if start else ()
            made = run.train(training, name=f"round{number}", data=data, start=start, carry=carry, budget=part)
            start, specs = f"round{number}", made.policies
        return StageResult(
            policies={self.name: next(iter(specs.values()))},
            data=Data(tuple(groups)),
            curves={"reward": Curve(points, "reward", "higher")},
        )

    def sampled(self, run: Run, start: str | None, number: int) -> dict[str, Any]:
        """The best and the worst response to each prompt, and the mean reward of all."""
        known = run.data.prompts.get("train", ())
        if not known:
            raise RunError(f"{self.name}: the data has no training prompts to sample from")
        asked = [known[(number * self.prompts + i) % len(known)] for i in range(min(self.prompts, len(known)))]
        with run.policy(start) as policy:
            samples = policy.sample(
                asked,
                self.n,
                temperature=self.temperature,
                max_new_tokens=self.max_new_tokens,
                seed=run.seed + number,
            )
        rewards = known_rewards(run.open("reward", run.spec(self.reward))(samples))
        texts = [list(samples.responses[at : at + self.n]) for at in range(0, len(samples.responses), self.n)]
        pairs = []
        for place, (group, said) in enumerate(zip(asked, texts, strict=True)):
            scores = {i: r for i, r in enumerate(rewards[place * self.n : (place + 1) * self.n]) if r is not None}
            if scores:
                best, worst = max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)
                pairs.append([group.prompt, said[best], said[worst]])
        return {"pairs": [pair for pair in pairs if pair[1] != pair[2]], "reward": mean_reward(rewards)}


@dataclass(frozen=True)
class Switch(Stage, makes={"policy"}):
    """Trains with one algorithm after another, and moves on when a phase's reward has stopped rising or its KL is high.

    A phase ends at the first logged step at which the mean reward of the last `window` steps is no more than
    `least_gain` above that of the `window` before, or where the KL exceeds `most_kl`; else when it is done. The next
    phase starts from the policy that the last one left, and what is left of the budget is shared by those to come. The
    reward is what the phase logs under one of `watched`.
    """

    phases: tuple[Stage, ...] = uses("stage", ["preference", "online"])
    window: Annotated[int, Field(ge=1, description="logged steps of each of the two means")] = 5
    least_gain: Annotated[float, Field(description="of reward from one window to the next")] = 0.0
    most_kl: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(description="nats a response, of a phase that logs a KL, as `online` does; null is no limit"),
    ] = None
    watched: list[str] = field(default_factory=lambda: ["reward", "rewards/margins"])
    budget: Spent = None
    from_: From = "previous"
    name: str = "switch"

    def run(self, run: Run) -> StageResult:
        """Each phase is a part with its own curves."""
        start: str | None = None
        policies: Mapping[str, Any] = {}
        rewards: Mapping[str, Any] = {}
        rows, left = [], self.budget
        for number, phase in enumerate(self.phases):
            ending, name = Ending(self), f"phase{number}"
            begins, part = start if "policy" in phase.makes else None, part_of(left, len(self.phases) - number)
            made = run.train(phase, name=name, start=begins, until=ending, budget=part)
            left = less(left, made.cost)
            rows.append({"phase": name, "stage": made.stage, "ended": ending.said, "step": ending.step})
            if made.policies:
                start, policies = name, made.policies
            rewards = made.rewards or rewards
        if not policies:
            raise RunError(f"{self.name}: no phase made a policy")
        return StageResult(
            policies={self.name: next(iter(policies.values()))},
            rewards={self.name: next(iter(rewards.values()))} if rewards else {},
            sections=[Section("Phases", "When each ended, and why.", rows)],
        )


class Ending:
    """Decides after each logged step whether a phase is to end."""

    def __init__(self, options: Switch) -> None:
        self.options = options
        self.values: list[float] = []
        self.step, self.why, self.reads_kl = 0, "", options.most_kl is None

    def __call__(self, step: Step) -> bool:
        """Whether the phase ends here."""
        self.step = step.step
        name = next((name for name in self.options.watched if name in step.values), None)
        if name is not None:
            self.values.append(step.values[name])
        kl = step.values.get("kl")
        self.reads_kl |= kl is not None
        if self.options.most_kl is not None and kl is not None and kl > self.options.most_kl:
            self.why = f"a KL of {kl:.2f}"
        elif (gained := gain(self.values, self.options.window)) is not None and gained <= self.options.least_gain:
            self.why = f"{name} gained {gained:.3g} over {self.options.window} steps"
        return bool(self.why)

    @property
    def said(self) -> str:
        """Why the phase ended."""
        return self.why or ("done" if self.reads_kl else "done; it logged no KL, so that most_kl could not end it")


def part_of(budget: Budget | None, parts: int) -> Budget | None:
    """The budget of each of several trainings."""
    if budget is None:
        return None
    return Budget(**{unit: limit / parts for unit, limit in vars(budget).items() if limit is not None})


def less(budget: Budget | None, spent: Cost) -> Budget | None:
    """What is left of a budget; at least 0."""
    if budget is None:
        return None
    return Budget(**{n: max(limit - getattr(spent, n), 0.0) for n, limit in vars(budget).items() if limit is not None})


def gain(values: Sequence[float], window: int) -> float | None:
    """The mean of the last values less that of the ones before; None where there are not enough."""
    if len(values) < 2 * window:
        return None
    return fmean(values[-window:]) - fmean(values[-2 * window : -window])


@hookimpl
def register_stage() -> dict[str, type]:
    """The stages of this file."""
    return {"iterate": Iterate, "switch": Switch}
