"""Which slot a person is given next. It reads and takes slots; what is answered is the desk's."""

from __future__ import annotations

from random import Random
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, exists, func, insert, or_, select, update

from rlhf_collect.settings import Settings
from rlhf_collect.store import tables, watch
from rlhf_collect.store.content import sides
from rlhf_collect.store.people import Person

FIRST = 20  # items of a person, among which more are gold
slot, item, annotation = tables.slot, tables.item, tables.annotation
Found: TypeAlias = Row[Any]


def held(connection: Connection, person: int, now: float) -> Found | None:
    """The slot that the person has already and that nobody else could have."""
    mine = (slot.c.person == person) & (slot.c.state == "leased") & (slot.c.until >= now)
    return connection.execute(select(slot).where(mine)).first()


def next_slot(connection: Connection, settings: Settings, person: Person, now: float, random: Random) -> Found | None:
    """A training item, then now and then a gold one, else the free slot with the lowest priority; None: all is done.

    A reviewer first gets what others were divided on or reported. Further votes on items on which people are divided go
    first to the abler half of the people: to the others once nothing else is left for them. Nothing is left for whoever
    was deleted since the request came.
    """
    able = connection.execute(select(tables.person.c.able).where(tables.person.c.id == person.id)).scalar()
    if able is None:
        return None
    if person.role == "reviewer" and (review := _free(connection, person.id, now, [], "review")):
        return review
    order = (1, 0) if able else (0, 1)
    return _usual(connection, settings, person.id, now, random, order)


def _usual(
    connection: Connection, settings: Settings, person: int, now: float, random: Random, order: tuple[int, int]
) -> Found | None:
    if training := _set(connection, person, "training", random):
        return training
    done = _answered(connection, person)
    closed = watch.blocked(connection, settings, person)
    share = settings.gold_share_first if done < FIRST else settings.gold_share
    if random.random() < share and (known := _set(connection, person, "gold", random)):
        return known
    found = (_free(connection, person, now, closed, "judged", divided) for divided in order)
    return next(filter(None, found), None)


def take(connection: Connection, chosen: int, person: int, until: float) -> None:
    """Leases a slot to the person."""
    values = {"state": "leased", "person": person, "until": until}
    connection.execute(update(slot).where(slot.c.id == chosen).values(values))


def give_back(connection: Connection, chosen: int) -> None:
    """Frees a slot."""
    connection.execute(update(slot).where(slot.c.id == chosen).values(state="free", person=None, until=None))


def give_back_others(connection: Connection, of: int, person: int) -> None:
    """Frees the places of an item that are leased to a person who has just filled another one."""
    held_still = (slot.c.item == of) & (slot.c.person == person) & (slot.c.state == "leased")
    connection.execute(update(slot).where(held_still).values(state="free", person=None, until=None))


def widen(
    connection: Connection, of: int, random: Random, priority: float, purpose: str = "judged", divided: int = 0
) -> int:
    """One more slot of an item; returns its id."""
    count = connection.execute(select(func.count()).where(slot.c.item == of)).scalar_one()
    answers = connection.execute(select(item.c.answers).where(item.c.id == of)).scalar_one()
    values = {
        "item": of,
        "ordinal": count,
        "purpose": purpose,
        "priority": priority,
        "state": "free",
        "divided": divided,
    }
    made = connection.execute(insert(slot).values(sides=sides(len(answers), random), **values)).inserted_primary_key
    assert made
    return int(made[0])


def _answered(connection: Connection, person: int) -> int:
    return connection.execute(select(func.count()).where(annotation.c.person == person)).scalar_one()


def _judged_by(person: int, of: Any) -> Any:
    return exists().where((annotation.c.item == of) & (annotation.c.person == person))


def _free(
    connection: Connection, person: int, now: float, closed: list[str], purpose: str, divided: int = 0
) -> Found | None:
    """A slot of an item that the person may and did not judge; a lease that ran out is as good as none."""
    wanted = [slot.c.purpose == purpose, slot.c.divided == divided, ~_judged_by(person, slot.c.item)]
    if closed:
        its = (item.c.id == slot.c.item) & (tables.prompt.c.id == item.c.prompt)
        wanted.append(~exists().where(its & tables.prompt.c.domain.in_(closed)))
    ran_out = (slot.c.state == "leased") & (slot.c.until < now)
    overdue = select(slot).where(ran_out, *wanted).limit(1)
    if found := connection.execute(overdue).first():
        return found
    queue = select(slot).where(slot.c.state == "free", *wanted).order_by(slot.c.priority, slot.c.id).limit(1)
    return connection.execute(queue).first()


def _set(connection: Connection, person: int, purpose: str, random: Random) -> Found | None:
    """A slot of its own for a training or gold item that the person did not see."""
    unseen = select(item.c.id).where(item.c.purpose == purpose, ~_judged_by(person, item.c.id)).order_by(item.c.id)
    ids = connection.execute(unseen).scalars().all()
    if not ids:
        return None
    chosen = ids[0] if purpose == "training" else random.choice(ids)
    left = or_(slot.c.state == "free", (slot.c.state == "leased") & (slot.c.person == person))
    there = connection.execute(select(slot).where(slot.c.item == chosen, left).limit(1)).first()
    made = there.id if there else widen(connection, chosen, random, 0.0, purpose)
    return connection.execute(select(slot).where(slot.c.id == made)).one()
