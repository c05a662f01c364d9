"""The report of a study as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rlhf_collect.study import Study
from rlhf_collect.summary import GATE, Summary, Worker, summarise


def lines(study: Study) -> Iterator[str]:
    """Line by line."""
    found = summarise(study)
    yield f"items: {_listed(found.items)}"
    yield f"votes: {found.votes}; slots: {_listed(found.slots)}; {_listed(found.acts)}"
    yield f"labels by majority: {_listed(found.labels)}; Dawid-Skene gives {found.changed} items another label"
    yield from _agreement(found)
    for arm, shift in found.shift.items():
        yield f"suggestions, {arm}: {shift}"
    if found.verified[0]:
        yield f"{found.verified[0]} answers with a label shown, which are no votes: {found.verified[1]} confirm it"
    yield from map(_person, found.people)
    yield from _couples(found)
    for item, votes in found.disputed:
        yield f"divided on item {item}: {_listed(votes)}"
    yield "log: whole" if found.broken is None else f"log: broken at event {found.broken}"


def _agreement(found: Summary) -> Iterator[str]:
    for name, interval in found.agreement.items():
        if interval.value == interval.value:
            yield f"agreement, {name}: {interval}"
    if found.gate is not None:
        yield f"alpha is above {GATE}" if found.gate else f"alpha is not above {GATE}: look at the guidelines first"


def _person(one: Worker) -> str:
    parts = [f"{one.role} {one.name}: {one.answered} votes, {one.state}"]
    if one.reason:
        parts.append(one.reason)
    if one.ability is not None:
        parts.append(f"ability {one.ability:.2f}")
    if one.known[1]:
        parts.append(f"{one.known[0]} of {one.known[1]} known answers right")
    if one.seconds is not None:
        parts.append(f"{one.seconds:.0f} s an item")
    return ", ".join(parts)


def _couples(found: Summary) -> Iterator[str]:
    names = {one.id: one.name for one in found.people}
    for one in found.couples:
        of = f" on {one.dimension}" if one.dimension else ""
        yield f"{names[one.first]} and {names[one.second]}{of}: kappa {one.kappa:.2f} of {one.answers} answers"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
