"""The stage `self_improve`: rounds of generating, judging, filtering and training that cannot fool themselves.

A judge that trains nothing decides on held-out prompts what is kept: a round that is worse, or whose answers are less
varied, is not built on. The reported gain is of other prompts where the data hold out enough, and else of fresh answers
and fresh noise: on what chose a policy, the best of several rounds seems to gain also where none does.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from rlhf_constitution.answering import training_prompts
from rlhf_constitution.constitution import bundled, faults
from rlhf_constitution.held_out import PEOPLE, HeldOut, Measured, held_out
from rlhf_constitution.replay import Replay, coverage, easiest, outliers
from rlhf_plugins import Carry, Curve, Data, Evaluation, Group, OnDisk, Run, Section, Stage, StageResult, hookimpl, uses

AUDITED = 16  # rows of each round that are written for people to look at
START = "start"


@dataclass(frozen=True)
class Round:
    """A finished round."""

    number: int
    start: str  # the policy that it started from
    policy: str
    measured: Measured
    reason: str  # why nothing is built on it; empty where it is kept
    rows: int
    covered: float
    outliers: float

    def row(self) -> dict[str, Any]:
        """For the report's table."""
        return {
            "round": self.number,
            "from": self.start,
            "score": round(self.measured.mean, 4),
            "effective answers": round(self.measured.varied, 2),
            "kept": self.reason or "yes",
            "rows": self.rows,
            "topics covered": round(self.covered, 3),
            "outliers": round(self.outliers, 4),
        }


@dataclass(frozen=True)
class SelfImprove(Stage, makes={"policy", "data", "evaluation"}):
    """Generate, judge, filter, train, again; with gates, replay, a schedule of difficulty and an early end."""

    stages: tuple[Stage, ...] = uses("stage", tag="stage")
    rounds: Annotated[int, Field(ge=1, description="at most")] = 4
    judge: Annotated[
        str | None,
        OnDisk(words=(PEOPLE, *bundled())),
        Field(description="a constitution that trains nothing, or `people`'s held-out pairs; null is the true reward"),
    ] = None
    held_out: Annotated[int, Field(ge=2, description="held-out prompts to choose by; as many others measure")] = 64
    answers: Annotated[int, Field(ge=2, description="to each held-out prompt")] = 4
    max_new_tokens: Annotated[int, Field(ge=1, description="where such an answer is cut")] = 64
    replay: Annotated[Replay, Field(description="rows of earlier rounds")] = field(default_factory=Replay)
    varied: Annotated[
        float, Field(ge=0, le=1, description="the effective number of answers to keep, as a share of round 0's")
    ] = 0.6
    patience: Annotated[int, Field(ge=1, description="rounds without a gain, after which the loop ends")] = 2
    easy_first: Annotated[bool, Field(description="round r of R asks the easiest (r + 1) / R of the prompts")] = True
    carry: Carry = field(default_factory=list)
    gates: Annotated[bool, Field(description="false builds on every round, to show what the gates are for")] = True
    name: str = "self_improve"

    def __post_init__(self) -> None:
        made = frozenset[str]().union(*(stage.makes for stage in self.stages))
        for what, words in {"data": "data", "policy": "a policy"}.items():
            if what not in made:
                raise ValueError(f"stages: none of them makes {words}, such as ai_feedback and preference")
        for word in self.carry:
            if word not in carried(self.stages):
                raise ValueError(f"carry: none of the stages can go on with {word!r} of the stage that makes its start")

    def missing(self) -> dict[str, str]:
        """A judge that cannot be read."""
        named = self.judge and self.judge != PEOPLE
        return {"judge": found} if named and (found := faults(str(self.judge))) else {}

    def run(self, run: Run) -> StageResult:
        """Raises RunError where there is no judge, or too little to judge."""
        return _Loop(self, run, *held_out(run, self.judge, self.held_out, self.answers, self.max_new_tokens)).result()


class _Loop:
    """One run of the loop: what it made so far."""

    def __init__(self, options: SelfImprove, run: Run, held_out: HeldOut, others: HeldOut) -> None:
        self.options, self.run = options, run
        self.held_out, self.others = held_out, others  # prompts that choose the round; those that measure the choice
        self.rows: dict[str, list[Sequence[Group]]] = {}  # by the stage that made them, of each round, without replay
        self.rounds: list[Round] = []
        self.specs: dict[str, Any] = {START: spec_of_start(run)}
        self.left: dict[str, frozenset[str]] = {}  # by policy: what of its training a stage may carry
        self.measured = {START: self.measure(START)}
        self.best = START

    def result(self) -> StageResult:
        """Runs the rounds and reports them."""
        without = 0
        while len(self.rounds) < self.options.rounds and without < self.options.patience and not self.run.stopped():
            before = self.best
            self.round(len(self.rounds))
            without = 0 if self.best != before else without + 1
        chosen = self.best if self.options.gates else self.rounds[-1].policy
        fresh = {name: self.measure(name, 1) for name in dict.fromkeys([START, chosen])}
        gain, error = fresh[chosen].lead(fresh[START])
        judged = {name: one.scores for name, one in self.measured.items()}
        curve = Curve([(0, self.measured[START].mean), *((one.number + 1, one.measured.mean) for one in self.rounds)])
        return StageResult(
            policies={self.options.name: self.specs[chosen]},
            data=Data(tuple(group for rounds in self.rows.values() for rows in rounds for group in rows)),
            evaluation=Evaluation(self.held_out.name, START, self.held_out.prompts, judged),
            sections=[self.section(chosen, gain, error)],
            curves={"held_out_score": curve},
            metrics={"gain": gain, "gain_error": error, "rounds": len(self.rounds), "chosen": chosen},
        )

    def round(self, number: int) -> None:
        """Generates, judges, trains and measures once."""
        options, start = self.options, self.best if self.options.gates else self.latest
        policy, data, new = start, self.data(number), list[Group]()
        for stage in options.stages:
            words = stage.carries & set(options.carry)
            carry, name = words & self.left.get(policy, frozenset()), f"r{number}-{stage.name}"
            trained = stage.keeping(words)
            part = self.run.train(trained, name=name, data=data, start=none_of(policy), carry=carry)
            if part.data is not None:
                own = self.rows.setdefault(stage.name, [])
                own.append(part.data.train)
                new += part.data.train
                data = self.data(number, options.replay.rows(own, self.run.seed + number))
            if part.policies:
                policy = next(iter(part.policies))
                self.specs[policy], self.left[policy] = part.policies[policy], stage.carries
        self.measured[policy] = measured = self.measure(policy)
        reason = self.reason(measured) if options.gates else ""
        self.audit(number, new)
        covered = coverage(new, training_prompts(self.run))
        self.rounds.append(Round(number, start, policy, measured, reason, len(data.train), covered, outliers(new)))
        if not reason and measured.mean > self.measured[self.best].mean:
            self.best = policy

    @property
    def latest(self) -> str:
        """The policy of the last round."""
        return self.rounds[-1].policy if self.rounds else START

    def reason(self, measured: Measured) -> str:
        """Why a round is not built on; empty where it is."""
        if measured.varied < self.options.varied * self.measured[START].varied:
            return f"its answers are less varied than {self.options.varied:.0%} of round 0's"
        lead, error = measured.lead(self.measured[self.best])
        return f"{-lead:.3f} worse than {self.best}" if lead < -error else ""

    def data(self, number: int, rows: Sequence[Group] = ()) -> Data:
        """The rows of a round, and the prompts that it may ask."""
        whole = self.run.data
        share = (number + 1) / self.options.rounds if self.options.easy_first else 1.0
        prompts = {**whole.prompts, "train": easiest(training_prompts(self.run), share)}
        return Data(tuple(rows) or whole.train, whole.test, prompts, gold=whole.gold)

    def measure(self, name: str, draw: int = 0) -> Measured:
        """A policy on held-out prompts, once; draw 1 is of the others, with other answers and other noise."""

        def make() -> Any:
            policy, asked = self.run.policy(none_of(name)), self.others if draw else self.held_out
            return vars(asked.measure(policy, self.run.seed + 1000 * draw, draw))

        return Measured(**self.run.once(f"held_out-{name}-{draw}", make))

    def audit(self, number: int, rows: Sequence[Group]) -> None:
        """Writes some rows of a round, drawn at random, for people to look at."""
        drawn = random.Random(self.run.seed + number).sample(list(rows), min(AUDITED, len(rows)))
        lines = [json.dumps({"prompt": group.prompt, "responses": list(group.responses)}) for group in drawn]
        (self.run.folder / f"audit-r{number}.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")

    def section(self, chosen: str, gain: float, error: float) -> Section:
        """The lineage, and what was gained."""
        seemed = self.measured[chosen].mean - self.measured[START].mean
        first = {"round": "start", "score": round(self.measured[START].mean, 4)}
        first |= {"effective answers": round(self.measured[START].varied, 2)}
        gains = f"it gains {gain:.3f} (standard error {error:.3f})"
        if self.others is not self.held_out:
            gains = f"It seemed to gain {seemed:.3f}; on {len(self.others.prompts)} other prompts {gains}."
        elif self.held_out.draws:
            gains = f"It seemed to gain {seemed:.3f}; with fresh answers and fresh noise on the same prompts {gains}."
        else:
            gains = f"On the pairs that it was chosen by {gains}, which may be too high with several rounds."
        text = f"Chosen: {chosen}, by {self.held_out.name} on {len(self.held_out.prompts)} held-out prompts. {gains}"
        return Section("Self-improvement", text, [first, *(one.row() for one in self.rounds)])


def carried(stages: Sequence[Stage]) -> frozenset[str]:
    """What some stage of a round can take over from the stage that makes its start, in this round or the one before."""
    before, found = next(stage for stage in reversed(stages) if "policy" in stage.makes), frozenset[str]()
    for stage in stages:
        found |= stage.carries & before.carries
        before = stage if "policy" in stage.makes else before
    return found


def none_of(name: str) -> str | None:
    """How `Run` calls a policy: None is the one that the stage starts from."""
    return None if name == START else name


def spec_of_start(run: Run) -> dict[str, Any]:
    """The policy that the stage starts from, as it can be opened later."""
    weights = run.weights("start")
    if weights.name == "base":
        return {"use": "base"}
    return {"use": "trained", "path": str(weights.folder or weights.base.path), "base": weights.base.path}


@hookimpl
def register_stage() -> dict[str, type]:
    """The stage of this file."""
    return {"self_improve": SelfImprove}
