"""The reviser `simulated`: edits a response by one sentence, with known skill, where the true reward is known."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_constitution.reviser import Reviser
from rlhf_constitution.revision import Propose, Request, edit
from rlhf_constitution.texts import plain
from rlhf_constitution.truth import sentences
from rlhf_plugins import Group, Run, RunError, hookimpl

COMMON = 12  # sentences that fit any prompt, at most
NEAR = 60  # sentences about a prompt, at most


@dataclass(frozen=True)
class Simulated(Reviser, reads_gold=True):
    """Takes out, replaces or adds one sentence: the best such edit by the true reward, or any, with known skill.

    The best edit has the highest true reward, less the share of words that it changes, and 1 more where the criticised
    words are gone. It knows the sentences of the training responses, also of prompts that differ in two words at most,
    which it then changes in the sentence too. Only simulated data has a true reward.
    """

    skill: Annotated[float, Field(ge=0, le=1, description="probability that a proposal is the best edit left")] = 0.9
    n: Annotated[int, Field(ge=1, description="proposals for a request")] = 2

    def build(self, run: Run) -> Propose:
        """Raises RunError where the data has no true reward."""
        gold = run.data.gold
        if gold is None:
            raise RunError("reviser simulated: the true reward of these rows is not known; use `data: sandbox`")
        known = _Known(run.data.train)

        def value(request: Request, text: str) -> float:
            where = request.critique.where
            solved = bool(where) and where not in text
            return gold(plain(request.prompt), text)["total"] - edit(request.response, text) + solved

        def propose(requests: Sequence[Request], seed: int) -> list[list[str]]:
            draw, found = random.Random(f"{run.seed} {seed}"), []
            for request in requests:
                made = sorted(set(known.edits(request)) - {request.response, ""} - request.tried)
                best = sorted(made, key=lambda text, asked=request: -value(asked, text))  # type: ignore[misc]
                found.append(self.proposals(best, draw))
            return found

        return propose

    def proposals(self, best: Sequence[str], draw: random.Random) -> list[str]:
        """`n` of the edits, each the best one left with the probability `skill`, else any."""
        left, found = list(best), list[str]()
        while left and len(found) < self.n:
            place = 0 if draw.random() < self.skill else draw.randrange(len(left))
            found.append(left.pop(place))
        return found


class _Known:
    """The sentences of some responses, found by the prompts that they answer."""

    def __init__(self, groups: Sequence[Group]) -> None:
        counts: Counter[str] = Counter()
        self.by_prompt: dict[tuple[str, ...], Counter[str]] = {}
        for group in groups:
            own = self.by_prompt.setdefault(tuple(words(plain(group.prompt))), Counter())
            for text in group.responses:
                counts.update(sentences(plain(text)))
                own.update(sentences(plain(text)))
        self.common = [part for part, _ in counts.most_common(COMMON)]

    def near(self, prompt: str) -> list[str]:
        """Sentences that answer this prompt or, with the words changed in which they differ, one much like it."""
        asked, found = tuple(words(prompt)), Counter[str]()
        for other, parts in self.by_prompt.items():
            changes = {b: a for a, b in zip(asked, other, strict=False) if a != b}
            if len(other) == len(asked) and len(changes) <= 2:
                found.update({changed(part, changes): count for part, count in parts.items()})
        return [part for part, _ in found.most_common(NEAR)]

    def edits(self, request: Request) -> Iterator[str]:
        """The response with one sentence less, another or more."""
        parts = sentences(request.response)
        new = dict.fromkeys([*self.near(plain(request.prompt)), *self.common])
        for place in range(len(parts)):
            before, after = parts[:place], parts[place + 1 :]
            yield " ".join([*before, *after])
            yield from (" ".join([*before, part, *after]) for part in new)
        yield from (" ".join([part, *parts]) for part in self.common)
        yield from (" ".join([*parts, part]) for part in new)


def words(text: str) -> list[str]:
    """The words of a text, without marks and case."""
    return [word.strip(".,!?:;").lower() for word in text.split()]


def changed(part: str, changes: dict[str, str]) -> str:
    """A sentence with some of its words changed."""
    if not changes:
        return part
    found = []
    for word in part.split():
        bare = word.strip(".,!?:;")
        found.append(word.replace(bare, changes[bare]) if bare in changes else word)
    return " ".join(found)


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The reviser of this file."""
    return {"reviser": {"simulated": Simulated}}
