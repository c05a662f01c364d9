"""Where people and a constitution disagree: which known principle would settle it, and what such cases share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rlhf_constitution.constitution import Scored
from rlhf_constitution.outcome import Ok, Outcome
from rlhf_constitution.simulated import words
from rlhf_constitution.texts import plain
from rlhf_plugins import Group

FEWEST = 3  # cases that make a cluster


@dataclass(frozen=True)
class Case:
    """A pair that people judged."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Suggestion:
    """A principle that the constitution lacks, on the cases where it disagrees with people."""

    principle: str
    settles: int  # cases that it decides as people did
    opposes: int  # cases that it decides the other way
    cases: int

    def __str__(self) -> str:
        return f"{self.principle}: settles {self.settles} of {self.cases} disagreements, opposes {self.opposes}"


@dataclass(frozen=True)
class Cluster:
    """Cases that share a word, which only the response that people rejected, or only the one that they chose, has."""

    word: str
    rejected: bool  # whether the rejected responses have it
    cases: tuple[Case, ...]

    def __str__(self) -> str:
        side = "reject" if self.rejected else "choose"
        return (
            f"{len(self.cases)} cases in which people {side} the response with {self.word!r}, such as {self.cases[0]}"
        )


def cases_of(groups: Iterable[Group]) -> list[Case]:
    """Every pair of which people preferred one response; ties settle nothing."""
    return [
        Case(plain(group.prompt), plain(group.responses[pair.better]), plain(group.responses[pair.worse]))
        for group in groups
        for pair in group.comparisons
        if not pair.tied
    ]


def disagreements(
    cases: Sequence[Case], chosen: Sequence[Scored], rejected: Sequence[Scored]
) -> tuple[list[Case], int]:
    """The cases in which the constitution does not prefer what people chose, and how many could not be scored."""
    found, unknown = [], 0
    for case, good, bad in zip(cases, chosen, rejected, strict=True):
        if good.satisfaction is None or bad.satisfaction is None:
            unknown += 1
        elif good.key <= bad.key:
            found.append(case)
    return found, unknown


def suggestions(found: Mapping[str, Sequence[tuple[Outcome, Outcome]]]) -> list[Suggestion]:
    """Principles by what they would settle, the best first.

    Args:
        found: by principle, for each disagreement its outcomes on the chosen and on the rejected response.
    """
    made = []
    for name, outcomes in found.items():
        values = [(a.value, b.value) for a, b in outcomes if isinstance(a, Ok) and isinstance(b, Ok)]
        made.append(Suggestion(name, sum(a > b for a, b in values), sum(a < b for a, b in values), len(outcomes)))
    return sorted(made, key=lambda one: one.opposes - one.settles)


def clusters(cases: Sequence[Case], most: int = 5) -> list[Cluster]:
    """Groups of cases by the word that tells their two sides apart most; each case is in one group."""
    left, found = list(cases), list[Cluster]()
    while left and len(found) < most:
        word, rejected = _telling(left)
        inside = [case for case in left if _tells(case, word) == rejected]
        if len(inside) < FEWEST:
            break
        found.append(Cluster(word, rejected, tuple(inside)))
        left = [case for case in left if case not in inside]
    return found


def _telling(cases: Sequence[Case]) -> tuple[str, bool]:
    """The word with the largest |z|, z = (r - c) / sqrt(r + c + 1), of r and c cases in which one side alone has it."""
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for case in cases:
        good, bad = set(words(case.chosen)), set(words(case.rejected))
        counts[True].update(bad - good)
        counts[False].update(good - bad)

    def z(word: str) -> float:
        r, c = counts[True][word], counts[False][word]
        return (r - c) / math.sqrt(r + c + 1)

    word = max(sorted({*counts[True], *counts[False]}), key=lambda one: abs(z(one)), default="")
    return word, z(word) > 0


def _tells(case: Case, word: str) -> bool | None:
    """Whether the rejected response alone has the word; None where it tells nothing."""
    good, bad = word in words(case.chosen), word in words(case.rejected)
    return None if good == bad else bad
