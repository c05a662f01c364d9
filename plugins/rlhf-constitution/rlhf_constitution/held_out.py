"""Measures a policy on held-out prompts by a judge that trains nothing: its scores, and how varied its answers are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from rlhf_constitution.constitution import load
from rlhf_constitution.scoring import Scorer
from rlhf_plugins import Policy, Run, RunError

Judge = Callable[[Sequence[str], Sequence[str], int], list[float]]  # prompts, responses, and which draw of the noise


@dataclass(frozen=True)
class Measured:
    """A policy on held-out prompts."""

    scores: list[float]  # a mean for each prompt
    varied: float  # the effective number of answers to a prompt, exp of the entropy, averaged

    @property
    def mean(self) -> float:
        """Of the scores."""
        return fmean(self.scores)

    def lead(self, other: Measured) -> tuple[float, float]:
        """How much better it is than another one on the same prompts, and the standard error of that."""
        differences = [a - b for a, b in zip(self.scores, other.scores, strict=True)]
        return fmean(differences), stdev(differences) / math.sqrt(len(differences))


@dataclass(frozen=True)
class HeldOut:
    """The prompts, the judge, and how they are answered."""

    prompts: list[str]
    judge: Judge
    name: str  # of the judge
    answers: int
    max_new_tokens: int

    def measure(self, policy: Policy, seed: int, draw: int = 0) -> Measured:
        """With answers that follow from the seed, and the judge's noise from the draw."""
        with policy:
            texts = policy.sample(self.prompts, self.answers, max_new_tokens=self.max_new_tokens, seed=seed).responses
        asked = [prompt for prompt in self.prompts for _ in range(self.answers)]
        scores = self.judge(asked, texts, draw)
        rows = range(0, len(texts), self.answers)
        return Measured(
            [fmean(scores[at : at + self.answers]) for at in rows],
            fmean(effective(texts[at : at + self.answers]) for at in rows),
        )


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
    return lambda prompts, texts, draw: [gold(*row)["total"] for row in zip(prompts, texts, strict=True)], "gold"


def _by_constitution(scorer: Scorer) -> Judge:
    def judge(prompts: Sequence[str], texts: Sequence[str], draw: int) -> list[float]:
        scored: Any = (scorer.again(draw) if draw else scorer)(prompts, texts)
        if failed := next((one.reason for one in scored if one.score is None), ""):
            raise RunError(f"self_improve: the judge of held-out answers failed: {failed}")
        return [one.score for one in scored]

    return judge
