"""How far each two people agree on what both judged: Cohen's kappa, which names who reads the guidelines otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from rlhf_collect.aggregate.votes import Vote, by_question
from rlhf_collect.agreement.coefficients import cohen
from rlhf_collect.agreement.counts import confusion

LEAST = 10  # answers in common, of fewer nothing is said


@dataclass(frozen=True)
class Couple:
    """Two people, by their ids, and the kappa of the answers that both gave."""

    first: int
    second: int
    dimension: str  # what was rated; empty for labels
    answers: int
    kappa: float


def couples(votes: Iterable[Vote], voted: bool, most: int = 5) -> tuple[Couple, ...]:
    """The pairs of people who agree least, the least first, by kappa: plain for labels, quadratic weights for ratings.

    Args:
        votes: on items or parts of them.
        voted: whether they are labels; otherwise they are whole numbers, each dimension by itself.
        most: how many there are at most.
    """
    both: dict[tuple[int, int, str], list[tuple[str, str]]] = {}
    for (_, part), given in by_question(list(votes)).items():
        dimension = "" if voted else part.rpartition("_")[0]
        labels = {vote.person: vote.label for vote in given}
        for first, second in combinations(sorted(labels), 2):
            both.setdefault((first, second, dimension), []).append((labels[first], labels[second]))
    found = [Couple(*who, len(given), _kappa(given, voted)) for who, given in both.items() if len(given) >= LEAST]
    known = [one for one in found if one.kappa == one.kappa]
    return tuple(sorted(known, key=lambda one: (one.kappa, one.first, one.second, one.dimension))[:most])


def _kappa(given: list[tuple[str, str]], voted: bool) -> float:
    first, second = zip(*given, strict=True)
    if voted:
        return cohen(confusion(first, second, sorted({*first, *second})))
    ours, theirs = list(map(int, first)), list(map(int, second))
    low, high = min(ours + theirs), max(ours + theirs)
    return cohen(confusion(ours, theirs, range(low, high + 1)), "quadratic")
