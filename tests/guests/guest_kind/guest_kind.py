"""The kind `rule`, two components of it, and a reward that abstains where its rules disagree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, ClassVar

from pydantic import Field

from rlhf_plugins import Component, Reward, Run, Samples, hookimpl, trait, uses

Numbers = Sequence[float | None]


class Rule(Component, kind="rule"):
    """A rule that a response keeps or breaks."""

    reads_prompt: ClassVar[bool] = trait(False, "its verdict depends on the prompt too")

    def __call__(self, prompt: str, response: str) -> float:
        """How far the response keeps the rule, 0 to 1."""
        raise NotImplementedError


@dataclass(frozen=True)
class Varied(Rule):
    """The share of the response's words that occur in it for the first time."""

    def __call__(self, prompt: str, response: str) -> float:
        words = response.split()
        return len(set(words)) / max(len(words), 1)


@dataclass(frozen=True)
class OnTopic(Rule, reads_prompt=True):
    """The share of the response's words that the prompt has too."""

    def __call__(self, prompt: str, response: str) -> float:
        words = response.split()
        return sum(word in prompt.split() for word in words) / max(len(words), 1)


@dataclass(frozen=True)
class Principled(Reward):
    """The mean verdict of some rules; it abstains where two verdicts differ by more than `tolerance`."""

    rules: tuple[Rule, ...] = uses("rule", ["varied", "on_topic"])
    tolerance: Annotated[float, Field(ge=0, le=1, description="largest difference of two verdicts")] = 0.5

    def build(self, run: Run) -> Callable[[Samples], Numbers]:
        def score(samples: Samples) -> Numbers:
            return [self.judge(*pair) for pair in zip(map(str, samples.prompts), samples.responses, strict=True)]

        return score

    def judge(self, prompt: str, response: str) -> float | None:
        verdicts = [rule(prompt, response) for rule in self.rules]
        return None if max(verdicts) - min(verdicts) > self.tolerance else fmean(verdicts)


@hookimpl
def register_kind() -> dict[str, type]:
    return {"rule": Rule}


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    return {"rule": {"varied": Varied, "on_topic": OnTopic}}


@hookimpl
def register_reward() -> dict[str, type]:
    return {"principled": Principled}
