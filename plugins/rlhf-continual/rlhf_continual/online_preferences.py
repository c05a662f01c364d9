"""The stage `online_preferences`: sample, label, train the reward model, train the policy against it, in rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from rlhf_continual.labels import Asked, Pair, Share, groups_of, right
from rlhf_plugins import (
    Carry,
    Curve,
    Data,
    DataFormat,
    Earlier,
    Group,
    Judge,
    Run,
    RunError,
    Section,
    Stage,
    StageResult,
    Verdict,
    hookimpl,
    uses,
)

From = Annotated[
    Annotated[str, Field(description="`base`, `previous` (the last stage that made a policy), or an earlier policy")],
    Earlier("policy", ("base", "previous")),
]
FINAL = "final"  # the pairs of the trained policy
MODELS = {"current": -1, "first": 0}
ABOUT = (
    "Accuracies are on the pairs of the policy of that moment that the judge decided, before "
    "any reward model learned from them: of the reward model that the policy was trained against last, and of the "
    "first one, which is what there would be without newer labels."
)


@dataclass
class Course:
    """A run of the stage so far: what was asked, what the answers made, and how stale it had become."""

    asked: list[Asked] = field(default_factory=list)
    models: list[StageResult] = field(default_factory=list)  # the reward models, the first to the current
    policies: Mapping[str, Any] = field(default_factory=dict)  # the policies that the last training made, by name
    stale: dict[str, dict[str, Share]] = field(default_factory=dict)  # round -> `current`, `first`
    sampled: int = 0  # prompts, which are more than the questions where two responses were equal

    @property
    def spent(self) -> int:
        """Questions to the judge."""
        return sum(len(each.pairs) for each in self.asked)

    def spec(self, number: int) -> Mapping[str, Any]:
        """A reward model in a recipe's words."""
        return next(iter(self.models[number].rewards.values()))


@dataclass(frozen=True)
class OnlinePreferences(Stage, makes={"policy", "reward", "data"}, writes={"probability"}):
    """People or a judge compare what the policy writes by now, while it is trained on what they said before.

    Each round samples two responses to each of the next prompts, has pairs of them judged, trains a reward model on all
    labels so far, and trains the policy on against it (Christiano et al. 2017, section 2; Bai et al. 2022,
    section 4.5). `first: 1` asks for all labels before any training, which is offline learning at the same cost.
    """

    labels: Annotated[int, Field(ge=1, description="questions to the judge in all, whatever it answers")]
    judge: Judge = uses("judge")
    reward_model: Stage = uses("stage", "reward_model", tag="stage")
    policy: Stage = uses("stage", "online", tag="stage")
    rounds: Annotated[int, Field(ge=1, description="of labelling, each with both trainings after it")] = 4
    first: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Field(description="share of the labels that the first round asks for; null is as many as any other"),
    ] = None
    measured: Annotated[
        int, Field(ge=0, description="of the labels, kept for pairs of the final policy, from which nothing learns")
    ] = 0
    lot: Annotated[int, Field(ge=1, description="questions at once; a kill loses the answers to one lot at most")] = 64
    known: Annotated[bool, Field(description="the judged rows of the data are learned from too")] = True
    max_new_tokens: Annotated[int, Field(ge=1, description="where a response is cut")] = 64
    temperature: Annotated[float, Field(gt=0, description="of sampling")] = 1.0
    carry: Carry = field(default_factory=list)
    from_: From = "previous"
    data: DataFormat | None = uses("data_format", optional=True, tag="format")
    name: str = "online_preferences"

    def __post_init__(self) -> None:
        if "reward" not in self.reward_model.makes:
            raise ValueError("reward_model: should be a stage that makes a reward, such as reward_model")
        if "policy" not in self.policy.makes or not hasattr(self.policy, "reward"):
            raise ValueError("policy: should be a stage that trains a policy against a reward, such as online")
        for name, stage in {"reward_model": self.reward_model, "policy": self.policy}.items():
            if stage.data is not None:
                raise ValueError(f"{name}: data: each round gives it rows; leave it out")
        if (self.policy.from_, self.policy.reference) != ("previous", "start"):
            raise ValueError("policy: from, reference: each round gives them; write `from` for the whole stage")
        self.policy.keeping(self.carry)
        if self.rounds == 1 and self.first not in (None, 1.0):
            raise ValueError(f"first: one round asks for all labels, and {self.first:g} of them leaves a rest")
        if self.measured >= self.labels:
            raise ValueError(f"measured: {self.measured} of {self.labels} labels, which leaves none to learn from")

    def run(self, run: Run) -> StageResult:
        """Hands on the last policy, the last reward model and every labelled pair.

        Raises:
            RunError: there is no prompt, the first round has no label, or the policy does not learn from the reward.
        """
        course = Course()
        for number in range(self.rounds):
            self._ask(run, course, str(number), self.due(number, course.spent))
            self._learn(run, course, number)
        if self.measured:
            self._ask(run, course, FINAL, self.measured)
        return self._result(course)

    def due(self, number: int, spent: int) -> int:
        """Labels that a round asks for: an equal part of those that are left, so that equal responses cost nothing.

        The first asks for one at least, since a reward model is trained on it.
        """
        left = self.labels - self.measured - spent
        if number:
            return left // (self.rounds - number)
        return max(1, left // self.rounds if self.first is None else round(self.first * left))

    def _ask(self, run: Run, course: Course, name: str, count: int) -> None:
        """Samples pairs of the current policy, has them judged, and notes what the reward models made of them."""
        pairs = run.once(f"pairs-{name}", lambda: self._sampled(run, course, count)) if count else []
        course.sampled += count
        answers: list[float | None] = []
        for at in range(0, len(pairs), self.lot):
            lot = pairs[at : at + self.lot]
            answers += run.once(f"labels-{name}-{at}", partial(self._judged, run, lot))
        asked = Asked([Pair(*pair) for pair in pairs], answers)
        if course.models and asked.decided:
            course.stale[name] = {each: right(run.open("reward", course.spec(n)), asked) for each, n in MODELS.items()}
        course.asked.append(asked)

    def _sampled(self, run: Run, course: Course, count: int) -> list[list[Any]]:
        """Two different responses to each of the next prompts, as JSON."""
        known = run.data.prompts.get("train", ())
        if not known:
            raise RunError(f"{self.name}: the data has no training prompts to sample from")
        asked = [known[(course.sampled + i) % len(known)] for i in range(count)]
        with run.policy(next(iter(course.policies), None)) as policy:
            options: dict[str, Any] = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
            texts = policy.sample(asked, 2, seed=run.seed + len(course.asked), **options).responses
        rows = zip(asked, texts[::2], texts[1::2], strict=True)
        return [[group.prompt, one, other] for group, one, other in rows if one != other]

    def _judged(self, run: Run, lot: Sequence[Sequence[Any]]) -> list[float | None]:
        """P(the first is better) of each pair, None where the judge gives none."""
        verdicts: Sequence[Verdict] = self.judge.build(run)(*map(list, zip(*lot, strict=True)))
        return [one.probability for one in verdicts]

    def _learn(self, run: Run, course: Course, number: int) -> None:
        """Trains the reward model from its start again where there are new labels, and the policy on."""
        groups = self._groups(course)
        if course.asked[-1].answered:
            rows = Data((*(run.data.train if self.known else ()), *groups), run.data.test, run.data.prompts)
            course.models.append(run.train(self.reward_model, name=f"reward{number}", data=rows))
        elif not course.models:
            raise RunError(f"{self.name}: the judge answered none of the {course.spent} questions of the first round")
        known = run.data.prompts["train"]
        place = number * len(known) // self.rounds  # each training begins with other prompts
        prompts = {**run.data.prompts, "train": (*known[place:], *known[:place])}
        policy = replace(self.policy.keeping(self.carry), reference=run.weights("start").name)
        start, data = next(iter(course.policies), None), replace(run.data, prompts=prompts)
        carry = self.carry if start else ()
        trained = run.train(policy, name=f"policy{number}", data=data, start=start, carry=carry)
        if not any(one.startswith(f"{course.models[-1].name}.rewards.") for one in trained.opened):
            raise RunError(f"{self.name}: policy: does not learn from the reward model; write reward: model")
        course.policies = trained.policies

    def _groups(self, course: Course) -> list[Group]:
        return [group for number, asked in enumerate(course.asked) for group in groups_of(asked, self.name, number)]

    def _result(self, course: Course) -> StageResult:
        names = [*map(str, range(self.rounds)), *([FINAL] if self.measured else [])]
        rows = []
        for name, asked in zip(names, course.asked, strict=True):
            shown = {each: str(course.stale.get(name, {}).get(each, "-")) for each in MODELS}
            rows.append({"round": name, "labels": len(asked.pairs), "unanswered": asked.unanswered, **shown})
        known = [(place, course.stale[name]) for place, name in enumerate(names) if name in course.stale]
        points = {each: [(place, shares[each].value) for place, shares in known] for each in MODELS}
        return StageResult(
            policies={self.name: next(iter(course.policies.values()))},
            rewards={self.name: course.spec(-1)},
            data=Data(tuple(self._groups(course))),
            sections=[Section("Labels and staleness", ABOUT, rows)],
            curves={f"accuracy_{each}": Curve(found, "", "higher") for each, found in points.items() if found},
            metrics={
                "labels": course.spent,
                "unanswered": sum(asked.unanswered for asked in course.asked),
                "accuracy": {
                    name: {each: one._asdict() for each, one in of.items()} for name, of in course.stale.items()
                },
            },
        )


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"online_preferences": OnlinePreferences}
