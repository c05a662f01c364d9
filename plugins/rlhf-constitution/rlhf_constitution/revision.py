"""Revision in rounds: one principle a round, and a proposal is accepted only if P rises and no gate is lost.

No model, no run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from rapidfuzz.distance import Levenshtein

from rlhf_constitution.constitution import Constitution, Scored
from rlhf_constitution.critique import REVISED_FROM, Critique, critique, critiques
from rlhf_constitution.texts import Text

Score = Callable[[Sequence[Text], Sequence[str]], list[Scored]]
Check = Callable[[Text, str, str], str]  # (prompt, first answer, revision) -> why it is rejected, or nothing


@dataclass(frozen=True)
class Request:
    """A response, and what is to be changed in it."""

    prompt: Text
    response: str
    critique: Critique
    tried: frozenset[str] = frozenset()  # texts that were proposed before


Propose = Callable[[Sequence[Request], int], list[list[str]]]  # requests and a seed -> proposals for each


@dataclass(frozen=True)
class Attempt:
    """A proposal, and what became of it."""

    round: int
    critique: Critique
    text: str
    accepted: bool
    reason: str  # why it was rejected
    before: float  # P
    after: float | None
    edit: float  # the share of tokens that it changes


@dataclass(frozen=True)
class Draft:
    """A prompt's first answer, its present one, and the way from one to the other."""

    prompt: Text
    first: str
    text: str
    at_first: Scored
    scored: Scored
    attempts: tuple[Attempt, ...] = ()
    seen: frozenset[str] = field(default_factory=frozenset)  # hashes of the texts that were tried

    @staticmethod
    def of(prompt: Text, response: str, scored: Scored) -> Draft:
        """One that nothing was tried on."""
        return Draft(prompt, response, response, scored, scored, seen=frozenset([hashed(response)]))

    @property
    def accepted(self) -> tuple[Attempt, ...]:
        """The attempts that were kept."""
        return tuple(one for one in self.attempts if one.accepted)

    def request(self, critique: Critique) -> Request:
        """What is to be changed, and what was tried."""
        return Request(self.prompt, self.text, critique, frozenset(one.text for one in self.attempts))

    def asks(self, constitution: Constitution) -> Critique | None:
        """The critique to act on next, of those that are severe enough: the first that was tried less than twice."""
        if self.scored.satisfaction is None:
            return None
        severe = [one for one in critiques(constitution, self.scored) if one.severity >= REVISED_FROM]
        rounds = {attempt.round: attempt.critique.principle for attempt in self.attempts}
        tried = list(rounds.values())
        return min(severe, key=lambda one: tried.count(one.principle) // 2, default=None)


@dataclass(frozen=True)
class Limits:
    """What a revision has to keep."""

    edit: float = 1.0  # the largest share of tokens that it may change
    checks: tuple[Check, ...] = ()  # the cheapest first


@dataclass(frozen=True)
class Makers:
    """Who takes part in a revision."""

    propose: Propose
    score: Score
    criticise: Callable[[Sequence[Request]], list[Request]] = list  # puts critiques in other words


def revise(
    drafts: Sequence[Draft], constitution: Constitution, makers: Makers, rounds: int, limits: Limits
) -> list[Draft]:
    """The drafts after at most so many rounds; those that need no revision come back as they are."""
    drafts = list(drafts)
    for number in range(rounds):
        asked = [(place, found) for place, draft in enumerate(drafts) if (found := draft.asks(constitution))]
        if not asked:
            break
        requests = makers.criticise([drafts[place].request(found) for place, found in asked])
        proposals = makers.propose(requests, number)
        flat = [(request.prompt, text) for request, texts in zip(requests, proposals, strict=True) for text in texts]
        answers = iter(makers.score([prompt for prompt, _ in flat], [text for _, text in flat]))
        for (place, _), request, texts in zip(asked, requests, proposals, strict=True):
            scored = [(text, next(answers)) for text in texts]
            drafts[place] = _tried(drafts[place], _Try(number, request.critique, constitution, limits), scored)
    return drafts


@dataclass(frozen=True)
class _Try:
    """One round for one draft."""

    round: int
    critique: Critique
    constitution: Constitution
    limits: Limits

    def attempt(self, draft: Draft, text: str, scored: Scored) -> Attempt:
        """The proposal with the first reason to reject it, or none."""
        changed = edit(draft.first, text)
        reason = self.reason(draft, text, scored, changed)
        before = draft.scored.satisfaction or 0.0
        return Attempt(self.round, self.critique, text, not reason, reason, before, scored.satisfaction, changed)

    def reason(self, draft: Draft, text: str, scored: Scored, changed: float) -> str:
        """Why the proposal is rejected; empty where it is not."""
        if not text.strip():
            return "empty"
        if hashed(text) in draft.seen:
            return "seen before"
        if scored.satisfaction is None:
            return f"not scored: {scored.reason}"
        if lost := scored.gates - draft.scored.gates:
            return f"loses the gate {', '.join(sorted(lost))}"
        if scored.satisfaction <= (draft.scored.satisfaction or 0.0):
            return "P does not rise"
        if changed > self.limits.edit:
            return f"changes {changed:.2f} of the tokens, more than {self.limits.edit:.2f}"
        found = (check(draft.prompt, draft.first, text) for check in self.limits.checks)
        return next(filter(None, found), "")

    def solves(self, scored: Scored) -> bool:
        """Whether the principle of this round needs no further revision."""
        principle = next(one for one in self.constitution.principles if one.name == self.critique.principle)
        left = critique(principle, scored)
        return left is None or left.severity < REVISED_FROM


def _tried(draft: Draft, now: _Try, proposals: Sequence[tuple[str, Scored]]) -> Draft:
    """The draft with what was proposed: the smallest edit of those that solve it, else the one with the highest P."""
    made = [(now.attempt(draft, text, scored), scored) for text, scored in proposals]
    good = [(one, scored) for one, scored in made if one.accepted]

    def rank(pair: tuple[Attempt, Scored]) -> tuple[bool, float]:
        solved = now.solves(pair[1])
        return (not solved, pair[0].edit if solved else -(pair[1].satisfaction or 0.0))

    chosen = min(good, key=rank, default=None)
    attempts = [one if chosen and one is chosen[0] else _passed_over(one) for one, _ in made]
    seen = draft.seen | {hashed(text) for text, _ in proposals}
    if not attempts:
        nothing = Attempt(
            now.round, now.critique, "", False, "no proposal", draft.scored.satisfaction or 0.0, None, 0.0
        )
        attempts = [nothing]
    found = replace(draft, attempts=(*draft.attempts, *attempts), seen=seen)
    return replace(found, text=chosen[0].text, scored=chosen[1]) if chosen else found


def _passed_over(attempt: Attempt) -> Attempt:
    return replace(attempt, accepted=False, reason=attempt.reason or "another proposal is better")


def edit(text: str, other: str) -> float:
    """Levenshtein's distance in words, over the number of words of the longer text."""
    found: float = Levenshtein.normalized_distance(text.split(), other.split())
    return found


def hashed(text: str) -> str:
    """The hash of a text; its spacing does not change it."""
    return blake2b(" ".join(text.split()).encode(), digest_size=16).hexdigest()


def to_json(draft: Draft) -> dict[str, Any]:
    """A form that JSON holds, without the hashes."""
    attempts = [{**vars(one), "critique": vars(one.critique)} for one in draft.attempts]
    scored = {"at_first": draft.at_first.to_json(), "scored": draft.scored.to_json()}
    return {"prompt": draft.prompt, "first": draft.first, "text": draft.text, **scored, "attempts": attempts}


def from_json(row: dict[str, Any]) -> Draft:
    """The inverse of `to_json`."""
    attempts = tuple(Attempt(**{**one, "critique": Critique(**one["critique"])}) for one in row["attempts"])
    scored = {name: Scored.from_json(row[name]) for name in ("at_first", "scored")}
    seen = frozenset(hashed(text) for text in (row["first"], *(one.text for one in attempts)))
    return Draft(row["prompt"], row["first"], row["text"], **scored, attempts=attempts, seen=seen)
