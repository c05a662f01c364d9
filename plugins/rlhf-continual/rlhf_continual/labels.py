"""Pairs with the answers of a judge, as rows and as a measure of a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlhf_plugins import Comparison, Group, Origin, as_response


class Pair(NamedTuple):
    """Two different responses to a prompt."""

    prompt: Any
    first: str
    second: str


class Share(NamedTuple):
    """A share of pairs."""

    value: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.3f} of {self.pairs}"


@dataclass(frozen=True)
class Asked:
    """Pairs that a judge was asked about, and P(the first is better) of each, None where it gave none."""

    pairs: Sequence[Pair]
    answers: Sequence[float | None]

    @property
    def answered(self) -> list[tuple[Pair, float]]:
        """The pairs with an answer, each with P(the first is better)."""
        return [(pair, p) for pair, p in zip(self.pairs, self.answers, strict=True) if p is not None]

    @property
    def decided(self) -> list[tuple[Pair, float]]:
        """The pairs whose answer prefers one response, each with P(the first is better)."""
        return [(pair, p) for pair, p in self.answered if p != 0.5]

    @property
    def unanswered(self) -> int:
        """How many have no answer."""
        return len(self.pairs) - len(self.answered)


def groups_of(asked: Asked, source: str, number: int) -> list[Group]:
    """The answered pairs as rows with soft labels, the likely better response first."""
    found = []
    for pair, p in asked.answered:
        better, worse = (pair.first, pair.second) if p >= 0.5 else (pair.second, pair.first)
        responses = tuple(as_response(pair.prompt, text) for text in (better, worse))
        compared = (Comparison(0, 1, probability=max(p, 1 - p)),)
        found.append(Group(pair.prompt, responses, compared=compared, origin=Origin(f"{source}:{number}")))
    return found


def right(reward: Any, asked: Asked) -> Share:
    """The share of the decided pairs that a reward model orders as the judge does; equal rewards count one half."""
    prompts = [pair.prompt for pair, _ in asked.decided]
    both = zip(*((pair.first, pair.second) for pair, _ in asked.decided), strict=True)
    first, second = (reward.encode(prompts, list(texts)) for texts in both)
    rewards = reward.predict(first.beside(second)).reward.view(2, -1).T.tolist()
    ordered = [
        0.5 if one == other else float((one > other) == (p > 0.5))
        for (one, other), (_, p) in zip(rewards, asked.decided, strict=True)
    ]
    return Share(sum(ordered) / len(ordered), len(ordered))
