"""A package of another author: a kind `rule`, two components of it, and a stage that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from rlhf_plugins import Component, Run, Section, Stage, StageResult, hookimpl, trait, uses


class Rule(Component, kind="rule"):
    """A rule that a response keeps or breaks."""

    reads_prompt: ClassVar[bool] = trait(False, "its verdict depends on the prompt too")

    def __call__(self, prompt: str, response: str) -> float:
        """The share of the rule that the response keeps, 0 to 1."""
        raise NotImplementedError


@dataclass(frozen=True)
class LengthBand(Rule):
    """1 where the response has `low` to `high` words, else 0."""

    low: Annotated[int, Field(ge=0)] = 1
    high: Annotated[int, Field(ge=1)] = 100

    def __call__(self, prompt: str, response: str) -> float:
        return float(self.low <= len(response.split()) <= self.high)


@dataclass(frozen=True)
class OnTopic(Rule, reads_prompt=True):
    """The share of the prompt's words that the response names."""

    def __call__(self, prompt: str, response: str) -> float:
        words = set(prompt.split())
        return len(words & set(response.split())) / max(len(words), 1)


@dataclass(frozen=True)
class Critique(Stage):
    """Measures how well the training responses keep some rules."""

    rules: tuple[Rule, ...] = uses("rule", ["length_band"])
    name: str = "critique"

    def run(self, run: Run) -> StageResult:
        rows = []
        for rule in self.rules:
            kept = [rule(str(group.prompt), str(r)) for group in run.data.train for r in group.responses]
            rows.append({"rule": type(rule).__name__, "kept": sum(kept) / len(kept)})
        return StageResult(sections=[Section("Rules", rows=rows)])


@hookimpl
def register_kind() -> dict[str, type]:
    return {"rule": Rule}


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    return {"rule": {"length_band": LengthBand, "on_topic": OnTopic}}


@hookimpl
def register_stage() -> dict[str, type]:
    return {"critique": Critique}
