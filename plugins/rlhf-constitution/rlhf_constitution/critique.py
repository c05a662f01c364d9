"""Critiques: what a response does wrong, by principle, with a severity of 1 to 5; and a comparison in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_constitution.constitution import Constitution, Scored
from rlhf_constitution.outcome import Ok
from rlhf_constitution.principle import Principle

REVISED_FROM = 3  # the least severity that asks for a revision


@dataclass(frozen=True)
class Critique:
    """One principle that a response does not keep fully."""

    principle: str
    angle: str  # content, style or compliance
    severity: int  # 1 to 5
    why: str
    where: str = ""
    fix: str = ""

    def __str__(self) -> str:
        """In the form "principle, what is wrong, where, what would help"."""
        where = f" (here: {self.where!r})" if self.where else ""
        fix = f". To fix it, {self.fix}" if self.fix else ""
        return f"This response has a problem with the principle {self.principle}, because {self.why}{where}{fix}."


def severity(value: float, lost: bool = False) -> int:
    """1 + floor(5 (1 - p)), at most 5, and at least 3 where a gate is lost; 0 where the principle is kept fully."""
    if value >= 1:
        return 0
    found = min(5, 1 + int(5 * (1 - value) + 1e-9))
    return max(REVISED_FROM, found) if lost else found


def critiques(constitution: Constitution, scored: Scored) -> list[Critique]:
    """The critiques of a response: lost gates first, by priority, then the most severe."""
    found = [one for principle in constitution.principles if (one := critique(principle, scored))]
    ranks = {name: place for place, names in enumerate(scored.lost) for name in names}
    return sorted(found, key=lambda one: (ranks.get(one.principle, len(scored.lost)), -one.severity))


def critique(principle: Principle, scored: Scored) -> Critique | None:
    """What one principle has against a response; None where it has nothing, or no opinion."""
    outcome = scored.outcomes[principle.name]
    if not isinstance(outcome, Ok) or outcome.value >= 1:
        return None
    grade = severity(outcome.value, principle.name in scored.gates)
    why = outcome.why or f"its value is {outcome.value:.2f}"
    return Critique(principle.name, principle.angle, grade, why, outcome.where, outcome.fix)


def decision(constitution: Constitution, a: Scored, b: Scored, names: Sequence[str] = ("A", "B")) -> str:
    """Which of two responses is better, in words."""
    for which, one in zip(names, (a, b), strict=True):
        if one.satisfaction is None:
            return f"No decision: {which} is not scored, since {one.reason}."
    for priority, of_a, of_b in zip(constitution.priorities, a.lost, b.lost, strict=True):
        if len(of_a) != len(of_b):
            better, worse, lost = (*names, of_b) if len(of_a) < len(of_b) else (*reversed(names), of_a)
            return f"{better} is better: {worse} loses the gate {', '.join(lost)} of {priority}, which counts before P."
    if a.satisfaction == b.satisfaction:
        return f"Neither is better: both lose the same number of gates, and P is {a.satisfaction:.3f} for both."
    better, high, low = (names[0], a, b) if a.key > b.key else (names[1], b, a)
    return f"{better} is better: no gate decides, and P is {high.satisfaction:.3f} against {low.satisfaction:.3f}."
