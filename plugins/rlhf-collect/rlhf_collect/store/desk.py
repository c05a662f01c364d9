"""The desk gives out items and takes judgements, each in one transaction. What was taken is on the disk."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random, SystemRandom
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from rlhf_collect.aggregate.majority import divided
from rlhf_collect.kinds.base import Unreadable, whole
from rlhf_collect.store import ability, chain, hints, judged, queue, tables, watch
from rlhf_collect.store.people import Person
from rlhf_collect.study import Study

ACTS = ("answered", "skipped", "flagged")
LONGEST_REASON, LONGEST_KEY = 2000, 64
annotation, slot = tables.annotation, tables.slot


@dataclass(frozen=True)
class Task:
    """An item as a person sees it: nothing in it tells who wrote an answer, or whether the answer is known."""

    token: str
    prompt: str  # HTML
    answers: tuple[str, ...]  # HTML, as they are shown
    kind: str
    domain: str
    form: Mapping[str, str] = field(default_factory=dict)  # what the person said before, or the label
    label: Mapping[str, str] | None = None  # a form that the person confirms or corrects


@dataclass(frozen=True)
class Taken:
    """What became of a judgement."""

    annotation: int
    again: bool  # the same submission was taken before
    surplus: bool = False
    right: bool | None = None  # whether it agrees with the known answer; None where none is known
    purpose: str = "judged"
    explanation: str = ""  # HTML
    hint: Mapping[str, str] | None = None  # the form that a model suggests, where it is to be shown
    paused: str = ""  # why the person is paused from now on


class Desk:
    """Gives the people of one study their items and takes their judgements."""

    def __init__(self, study: Study, random: Random | None = None) -> None:
        self.study, self.random = study, random or SystemRandom()

    def claim(self, person: Person) -> Task | None:
        """The item that the person is at, or the next; None where nothing is left for this person."""
        now = self.study.now()
        with self.study.database.writing() as connection:
            found = queue.held(connection, person.id, now)
            if found is None:
                found = queue.next_slot(connection, self.study.settings, person, now, self.random)
                if found is None:
                    return None
                token = self._lease(connection, found, person, now)
            else:
                token = _token(connection, found.id, person.id)
            return task_of(connection, self.study, found, token)

    def submit(self, person: Person, form: Mapping[str, str]) -> Taken:
        """Takes a form with `token`, `key`, `act` and the judgement. Raises Unreadable where it holds none."""
        key = form.get("key", "")
        if not 0 < len(key) <= LONGEST_KEY:
            raise Unreadable(f"key should have 1 to {LONGEST_KEY} characters")
        with self.study.database.writing() as connection:
            there = (annotation.c.person == person.id) & (annotation.c.key == key)
            if known := connection.execute(select(annotation).where(there)).first():
                return Taken(known.id, again=True, surplus=bool(known.surplus))
            taken = self._take(connection, person, form, self.study.now())
        if taken.annotation % ability.EVERY == 0:  # after the commit: nobody else waits for it
            ability.rank(self.study)
        return taken

    def _lease(self, connection: Connection, found: Row[Any], person: Person, now: float) -> str:
        token = secrets.token_urlsafe(32)
        queue.take(connection, found.id, person.id, now + self.study.settings.lease_seconds)
        values = {"token": token, "slot": found.id, "person": person.id, "started": now}
        connection.execute(insert(tables.lease).values(values))
        return token

    def _take(self, connection: Connection, person: Person, form: Mapping[str, str], now: float) -> Taken:
        given, place = _given(connection, person, form.get("token", ""))
        values = _read(self.study, form, place.sides)
        mine = _is_theirs(connection, place, person)
        verified = hints.label_of(connection, place) is not None
        values |= {"key": form["key"], "seconds": now - given.started, "at": now, "surplus": int(not mine)}
        values["verified"] = int(verified)
        number, values = _write(connection, place, person, values)
        if mine:
            _close(connection, place, person, values["act"])
        body = {name: values[name] for name in ("item", "person", "version", "act", "value", "surplus", "verified")}
        chain.append(connection, now, "judged", {"annotation": number, **body})
        return self._followed(connection, place, values, Taken(number, again=False, surplus=not mine))

    def _followed(self, connection: Connection, place: Row[Any], values: Mapping[str, Any], taken: Taken) -> Taken:
        """What a judgement leads to: further votes, a review, a check, a suggestion, a pause."""
        if values["act"] == "flagged" and place.purpose == "judged":
            self._review(connection, place)
        if values["act"] == "skipped" and place.purpose == "training":  # or nobody would have to pass
            watch.note(connection, place, values, taken.annotation, right=False)
        if values["act"] != "answered":
            return taken
        if place.purpose == "judged":
            self._widen(connection, place)
            found = hints.after(connection, self.random, taken.annotation, values)
            taken = replace(taken, hint=found and self.study.kind.shown(found.value, place.sides))
        elif place.purpose != "review":
            taken = self._checked(connection, place, values, taken)
        return replace(taken, paused=watch.look(connection, values["at"], self.study.kind, values["person"]))

    def _checked(self, connection: Connection, place: Row[Any], values: Mapping[str, Any], taken: Taken) -> Taken:
        """With the known answer."""
        known = connection.execute(select(tables.gold).where(tables.gold.c.item == place.item)).one()
        right = self.study.kind.agrees(values["value"], known.value)
        watch.note(connection, place, values, taken.annotation, right)
        return replace(taken, right=right, purpose=place.purpose, explanation=known.explanation)

    def _widen(self, connection: Connection, place: Row[Any]) -> None:
        """One more slot where all are filled and people are divided; a reviewer's, where they have the most votes."""
        settings = self.study.settings
        mine = (slot.c.item == place.item) & (slot.c.purpose == "judged")
        states = connection.execute(select(slot.c.state).where(mine)).scalars().all()
        if set(states) != {"done"}:
            return
        values = judged.values_of(connection, place.item)
        if divided([self.study.kind.label(value) for value in values], settings.votes):
            if len(states) < settings.most_votes:
                queue.widen(connection, place.item, self.random, place.priority, divided=1)
            else:
                self._review(connection, place)

    def _review(self, connection: Connection, place: Row[Any]) -> None:
        """A slot for a reviewer, once an item."""
        there = (slot.c.item == place.item) & (slot.c.purpose == "review")
        if connection.execute(select(slot.c.id).where(there)).first() is None:
            queue.widen(connection, place.item, self.random, place.priority, "review")


def _read(study: Study, form: Mapping[str, str], sides: Any) -> dict[str, Any]:
    """The columns that a form gives. Raises Unreadable."""
    act = form.get("act", "answered")
    if act not in ACTS:
        raise Unreadable(f"act should be one of {', '.join(ACTS)}, got {act!r:.40}")
    value = study.kind.read(form, sides) if act == "answered" else None
    confidence = whole(form, "confidence", 1, 5) if form.get("confidence") else None
    reason = form.get("reason", "").strip()[:LONGEST_REASON]
    if act == "flagged" and not reason:
        raise Unreadable("a flag needs a reason")
    return {"act": act, "value": value, "confidence": confidence, "reason": reason}


def _given(connection: Connection, person: Person, token: str) -> tuple[Row[Any], Row[Any]]:
    """The lease and its slot. Raises Unreadable where the person was given no such item."""
    mine = (tables.lease.c.token == token) & (tables.lease.c.person == person.id)
    given = connection.execute(select(tables.lease).where(mine)).first()
    if given is None:
        raise Unreadable("this item was not given to you")
    return given, connection.execute(select(slot).where(slot.c.id == given.slot)).one()


def _is_theirs(connection: Connection, place: Row[Any], person: Person) -> bool:
    """Whether an answer is a vote: a person fills one place of an item, though several may have been leased to them."""
    if place.state != "free":
        return bool(place.person == person.id)
    others = (slot.c.item == place.item) & (slot.c.person == person.id) & (slot.c.state == "done")
    return connection.execute(select(slot.c.id).where(others)).first() is None


def _write(
    connection: Connection, place: Row[Any], person: Person, values: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """The number of the new version, and all of its columns."""
    mine = (annotation.c.item == place.item) & (annotation.c.person == person.id)
    version = connection.execute(select(func.max(annotation.c.version)).where(mine)).scalar() or 0
    guideline = connection.execute(select(func.max(tables.guideline.c.version))).scalar_one()
    values |= {"slot": place.id, "item": place.item, "person": person.id, "sides": place.sides}
    values |= {"version": version + 1, "guideline": guideline}
    made = connection.execute(insert(annotation).values(values)).inserted_primary_key
    assert made
    return int(made[0]), values


def _close(connection: Connection, place: Row[Any], person: Person, act: str) -> None:
    """A judgement fills the slot; a skipped one is for somebody else."""
    if act == "answered" or place.purpose in ("gold", "training"):
        values = {"state": "done", "person": person.id, "until": None}
        connection.execute(update(slot).where(slot.c.id == place.id).values(values))
        queue.give_back_others(connection, place.item, person.id)
    elif place.state != "free":
        queue.give_back(connection, place.id)


def _token(connection: Connection, of: int, person: int) -> str:
    mine = (tables.lease.c.slot == of) & (tables.lease.c.person == person)
    newest = select(tables.lease.c.token).where(mine).order_by(tables.lease.c.started.desc()).limit(1)
    return connection.execute(newest).scalar_one()


def task_of(connection: Connection, study: Study, place: Row[Any], token: str) -> Task:
    """A slot as it is shown to whom it was given."""
    chosen = select(tables.item.c.answers, tables.prompt.c.html, tables.prompt.c.domain)
    found = connection.execute(chosen.join(tables.prompt).where(tables.item.c.id == place.item)).one()
    written = select(tables.answer.c.id, tables.answer.c.html).where(tables.answer.c.id.in_(found.answers))
    shown = {row.id: row.html for row in connection.execute(written)}
    answers = tuple(shown[found.answers[side]] for side in place.sides)
    label = hints.label_of(connection, place)
    form = None if label is None else study.kind.shown(label.value, place.sides)
    return Task(token, found.html, answers, study.settings.kind, found.domain, form or {}, form)
