"""Measures a policy on held-out prompts by a judge that trains nothing: its scores, and how varied its answers are.

The judge is a constitution of its own, the true reward, or the labels of people on held-out pairs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, ClassVar

from rlhf_constitution.constitution import load
from rlhf_constitution.scoring import Scorer
from rlhf_constitution.texts import Text, plain
from rlhf_plugins import Group, Policy, Run, RunError

PEOPLE = "people"
TIE = 1e-6  # nats
Judge = Callable[[Sequence[Text], Sequence[str], int], list[float]]  # prompts, responses, and which draw of the noise


@dataclass(frozen=True)
class Measured:
    """A policy on held-out prompts."""

    scores: list[float]  # a mean for each prompt
    varied: float  # the effective number of answers to a prompt, exp of the entropy, averaged

    @property
    def mean(self) -> float:
        """The mean of the scores over prompts."""
        return fmean(self.scores)

    def lead(self, other: Measured) -> tuple[float, float]:
        """How much better it is than another one on the same prompts, and the standard error of that."""
        differences = [a - b for a, b in zip(self.scores, other.scores, strict=True)]
        return fmean(differences), stdev(differences) / math.sqrt(len(differences))


@dataclass(frozen=True)
class HeldOut:
    """The prompts, the judge, and how they are answered."""

    draws: ClassVar[bool] = True  # whether another draw of `measure` is other answers, or other noise of the judge

    prompts: list[Text]
    judge: Judge
    name: str  # the judge's
    answers: int
    max_new_tokens: int

    def measure(self, policy: Policy, seed: int, draw: int = 0) -> Measured:
        """With answers that follow from the seed, and the judge's noise from the draw."""
        with policy:
            texts = policy.sample(self.prompts, self.answers, max_new_tokens=self.max_new_tokens, seed=seed).responses
        rows = range(0, len(texts), self.answers)
        varied = fmean(effective(texts[at : at + self.answers]) for at in rows)
        return Measured(self.scores(policy, texts, draw), varied)

    def scores(self, policy: Policy, texts: Sequence[str], draw: int) -> list[float]:
        """The judge's mean of the answers to each prompt."""
        asked = [prompt for prompt in self.prompts for _ in range(self.answers)]
        found = self.judge(asked, texts, draw)
        return [fmean(found[at : at + self.answers]) for at in range(0, len(found), self.answers)]


@dataclass(frozen=True)
class ByPeople(HeldOut):
    """Whether the policy leans to the response that people chose more than it did at the start: 1, 0, or 1/2 for a tie.

    The lean is log pi(chosen) - log pi(rejected), less that of the policy that the stage starts from, the implicit
    reward of DPO (Rafailov et al. 2023, section 4).
    """

    draws = False

    pairs: tuple[Group, ...] = ()  # one for each prompt, the chosen response first
    start: tuple[float, ...] = ()  # leans of the policy that the stage starts from

    def scores(self, policy: Policy, texts: Sequence[str], draw: int) -> list[float]:
        """1 for each pair where the lean has risen, 0 where it has fallen, 1/2 where it moved by less than `TIE`."""
        moved = [now - then for now, then in zip(leans(policy, self.pairs), self.start, strict=True)]
        return [0.5 if abs(move) < TIE else float(move > 0) for move in moved]


def leans(policy: Policy, pairs: Sequence[Group]) -> list[float]:
    """log pi(first response) - log pi(second) of each pair."""
    prompts = [pair.prompt for pair in pairs]
    with policy:
        first, second = (
            policy.log_probs(policy.encode(prompts, [pair.responses[place] for pair in pairs])).sum(1).tolist()
            for place in (0, 1)
        )
    return [a - b for a, b in zip(first, second, strict=True)]


def of_people(run: Run) -> tuple[Group, ...]:
    """The held-out pairs that people ordered, the chosen one first. Raises RunError where there are fewer than two."""
    found = []
    for group in run.data.test:
        pair = next((one for one in group.comparisons if not one.tied), None)
        if pair is not None:
            found.append(Group(group.prompt, (group.responses[pair.better], group.responses[pair.worse])))
    if len(found) < 2:
        raise RunError("self_improve: `judge: people` needs two held-out pairs at least that people ordered")
    return tuple(found)


def held_out(run: Run, judge: str | None, most: int, answers: int, max_new_tokens: int) -> tuple[HeldOut, HeldOut]:
    """The held-out prompts that choose a policy, and as many others that measure it, with their judge.

    Both are the same where the data hold out fewer than two others. Raises RunError where there are too few, or no
    judge.
    """
    if judge == PEOPLE:
        pairs = of_people(run)
        by_people = [
            ByPeople([one.prompt for one in part], _nobody, PEOPLE, answers, max_new_tokens, part, _start(run, part))
            for part in _halves(pairs, most)
        ]
        return by_people[0], by_people[-1]
    score, name = judge_of(run, judge)
    asked = run.data.prompts.get("test", ())
    if len(asked) < 2:
        raise RunError("self_improve: fewer than two held-out prompts")
    found = [
        HeldOut([one.prompt for one in part], score, name, answers, max_new_tokens) for part in _halves(asked, most)
    ]
    return found[0], found[-1]


def _halves(groups: Sequence[Group], most: int) -> list[tuple[Group, ...]]:
    """The first ones, and the next ones of other prompts where there are two or more."""
    first = tuple(groups[:most])
    known = {one.prompt_words for one in first}
    others = tuple(one for one in groups[most:] if one.prompt_words not in known)[:most]
    return [first, others] if len(others) > 1 else [first]


def _start(run: Run, pairs: Sequence[Group]) -> tuple[float, ...]:
    return tuple(leans(run.policy(), pairs))


def _nobody(prompts: Sequence[Text], texts: Sequence[str], draw: int) -> list[float]:
    raise RunError("people judge pairs, not answers")


def effective(texts: Sequence[str]) -> float:
    """exp(entropy) of the texts' shares: n where all differ, 1 where all are equal."""
    shares = [count / len(texts) for count in Counter(texts).values()]
    return math.exp(-sum(share * math.log(share) for share in shares))


def judge_of(run: Run, constitution: str | None) -> tuple[Judge, str]:
    """A constitution of its own, else the data's true reward. Raises RunError where there is neither."""
    if constitution is not None:
        return _by_constitution(Scorer(load(constitution), run)), constitution
    gold = run.data.gold
    if gold is None:
        raise RunError("self_improve: the true reward is not known; name a constitution that trains nothing as `judge`")
    return lambda prompts, texts, draw: [
        gold(plain(prompt), text)["total"] for prompt, text in zip(prompts, texts, strict=True)
    ], "gold"


def _by_constitution(scorer: Scorer) -> Judge:
    def judge(prompts: Sequence[Text], texts: Sequence[str], draw: int) -> list[float]:
        scored: Any = (scorer.again(draw) if draw else scorer)(prompts, texts)
        if failed := next((one.reason for one in scored if one.score is None), ""):
            raise RunError(f"self_improve: the judge of held-out answers failed: {failed}")
        return [one.score for one in scored]

    return judge
