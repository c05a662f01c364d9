"""The reviser `simulated`: edits a response by one sentence, with known skill, where the true reward is known."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_constitution.reviser import Reviser
from rlhf_constitution.revision import Propose, Request
from rlhf_constitution.truth import sentences
from rlhf_plugins import Group, Run, RunError, hookimpl

COMMON = 12  # sentences that fit any prompt, at most
NEAR = 60  # sentences about a prompt, at most

Edits = Callable[[Request], list[str]]  # best first


@dataclass(frozen=True)
class Simulated(Reviser, reads_gold=True):
    """Takes out, replaces or adds one sentence: the best such edit by the true reward, or any, with known skill.

    It knows the sentences of the training responses. Only simulated data has a true reward.
    """

    skill: Annotated[float, Field(ge=0, le=1, description="probability that a proposal is the best edit left")] = 0.9
    n: Annotated[int, Field(ge=1, description="proposals for a request")] = 2

    def build(self, run: Run) -> Propose:
        """Raises RunError where the data has no true reward."""
        gold = run.data.gold
        if gold is None:
            raise RunError("reviser simulated: the true reward of these rows is not known; use `data: sandbox`")
        known = _Known(run.data.train)

        def edits(request: Request) -> list[str]:
            found = sorted(set(known.edits(request)) - {request.response, ""})
            return sorted(found, key=lambda text: -gold(request.prompt, text)["total"])

        def propose(requests: Sequence[Request], seed: int) -> list[list[str]]:
            draw = random.Random(f"{run.seed} {seed}")
            return [self.proposals(edits(request), draw) for request in requests]

        return propose

    def proposals(self, best: Sequence[str], draw: random.Random) -> list[str]:
        """`n` of the edits, each the best one left with the probability `skill`, else any."""
        left, found = list(best), list[str]()
        while left and len(found) < self.n:
            place = 0 if draw.random() < self.skill else draw.randrange(len(left))
            found.append(left.pop(place))
        return found


class _Known:
    """The sentences of some responses, found by their words."""

    def __init__(self, groups: Sequence[Group]) -> None:
        counts = Counter(part for group in groups for text in group.responses for part in sentences(str(text)))
        self.common = [part for part, _ in counts.most_common(COMMON)]
        self.by_word: dict[str, list[str]] = {}
        for part, _ in counts.most_common():
            for word in set(words(part)):
                self.by_word.setdefault(word, []).append(part)

    def near(self, prompt: str) -> list[str]:
        """Sentences with the rarest word of the prompt."""
        known = [word for word in words(prompt) if word in self.by_word]
        rarest = min(known, key=lambda word: len(self.by_word[word]), default="")
        return self.by_word.get(rarest, [])[:NEAR]

    def edits(self, request: Request) -> Iterator[str]:
        """The response with one sentence less, another or more."""
        parts = sentences(request.response)
        new = dict.fromkeys([*self.near(request.prompt), *self.common])
        for place in range(len(parts)):
            before, after = parts[:place], parts[place + 1 :]
            yield " ".join([*before, *after])
            yield from (" ".join([*before, part, *after]) for part in new)
        yield from (" ".join([part, *parts]) for part in self.common)
        yield from (" ".join([*parts, part]) for part in new)


def words(text: str) -> list[str]:
    """The words of a text, without marks and case."""
    return [word.strip(".,!?:;").lower() for word in text.split()]


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The reviser of this file."""
    return {"reviser": {"simulated": Simulated}}
