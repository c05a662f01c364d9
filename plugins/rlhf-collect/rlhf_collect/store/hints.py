"""Suggestions of a model: half of the answers are followed by one, and the other half is the control.

People answer first, so that a vote is theirs; they may change it after. How far suggestions move people is the change
of their agreement with the suggestion, in the arm that sees it less that in the control arm.

A label to verify is a suggestion that is shown before. Answers to it are marked, since they are not independent of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from sqlalchemy import Connection, Row, exists, insert, select

from rlhf_collect.kinds.base import Kind
from rlhf_collect.store import tables

ARMS = ("shown", "control")
annotation, hint, suggestion = tables.annotation, tables.hint, tables.suggestion


@dataclass(frozen=True)
class Shift:
    """How often the answers of one arm agreed with the suggestion when they were given, and how often they do now."""

    answers: int
    before: float  # share that agreed with the suggestion when they answered
    after: float  # share that agrees now

    def __str__(self) -> str:
        return f"{self.answers} answers, {self.before:.3f} agreed before and {self.after:.3f} after"


def after(connection: Connection, random: Random, number: int, values: Mapping[str, Any]) -> Row[Any] | None:
    """The suggestion for an item that was answered just now, where it is to be shown; draws the arm."""
    if values["version"] > 1:
        return None
    mine = (suggestion.c.item == values["item"]) & (suggestion.c.before == 0)
    found = connection.execute(select(suggestion).where(mine)).first()
    if found is None:
        return None
    arm = ARMS[random.random() >= 0.5]
    drawn = {"annotation": number, "item": values["item"], "person": values["person"], "arm": arm}
    connection.execute(insert(hint).values(drawn))
    return found if arm == "shown" else None


def label_of(connection: Connection, place: Row[Any]) -> Row[Any] | None:
    """The label that is shown with a slot's item, to confirm or correct; a reviewer sees none."""
    if place.purpose == "review":
        return None
    mine = (suggestion.c.item == place.item) & (suggestion.c.before == 1)
    return connection.execute(select(suggestion).where(mine)).first()


def verified(connection: Connection, kind: Kind) -> tuple[int, int]:
    """Newest answers that were given with a label shown, and how many of them confirm it."""
    later = annotation.alias()
    its = (later.c.item == annotation.c.item) & (later.c.person == annotation.c.person)
    newest = ~exists().where(its & (later.c.id > annotation.c.id))
    mine = (annotation.c.verified == 1) & (annotation.c.act == "answered") & newest
    rows = select(annotation.c.value.label("value"), suggestion.c.value.label("suggested"))
    found = connection.execute(rows.join(suggestion, annotation.c.item == suggestion.c.item).where(mine)).all()
    return len(found), sum(kind.parts(row.suggested).items() <= kind.parts(row.value).items() for row in found)


def shift(connection: Connection, kind: Kind) -> dict[str, Shift]:
    """How many agree with the suggestion before and after, by arm; empty where nothing was suggested."""
    its = (hint.c.item == annotation.c.item) & (hint.c.person == annotation.c.person)
    columns = (hint.c.annotation, hint.c.arm, annotation.c.value, suggestion.c.value.label("suggested"))
    rows = select(*columns).join_from(hint, annotation, its).join(suggestion, hint.c.item == suggestion.c.item)
    rows = rows.where(annotation.c.act == "answered").order_by(annotation.c.version)
    agreed: dict[tuple[str, int], list[bool]] = {}  # version by version, the first of which the hint followed
    for row in connection.execute(rows):
        same = kind.label(row.value) == kind.label(row.suggested)
        agreed.setdefault((row.arm, row.annotation), []).append(same)
    found: dict[str, list[tuple[bool, bool]]] = {}
    for (arm, _), versions in agreed.items():
        found.setdefault(arm, []).append((versions[0], versions[-1]))
    return {arm: _shift(found[arm]) for arm in ARMS if arm in found}


def changed_after(connection: Connection, kind: Kind, until: int) -> set[tuple[int, int]]:
    """The (item, person) whose counted answer has other labels than the first, after a suggestion was shown."""
    its = (hint.c.item == annotation.c.item) & (hint.c.person == annotation.c.person)
    counted = (annotation.c.surplus == 0) | (annotation.c.version == 1)
    counted &= (annotation.c.act == "answered") & (annotation.c.id <= until)
    rows = select(annotation).join(hint, its).where(hint.c.arm == "shown", counted).order_by(annotation.c.version)
    found: dict[tuple[int, int], list[Mapping[str, str]]] = {}
    for row in connection.execute(rows):
        found.setdefault((row.item, row.person), []).append(kind.parts(row.value))
    return {who for who, labels in found.items() if labels[-1] != labels[0]}


def _shift(pairs: list[tuple[bool, bool]]) -> Shift:
    before, now = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return Shift(len(pairs), before, now)
