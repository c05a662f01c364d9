"""Watches people as they answer: keeps who was right, pauses whoever raises a flag, and deletes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, true

from rlhf_collect.kinds.base import Kind
from rlhf_collect.quality.patterns import Done, by_length, one_sided, too_fast
from rlhf_collect.quality.sequential import Sequential
from rlhf_collect.settings import Settings
from rlhf_collect.store import people, tables

GOLD = Sequential()
LAST = 60  # answers that patterns are looked for in
annotation, checked, item, prompt = tables.annotation, tables.checked, tables.item, tables.prompt


def note(connection: Connection, place: Row[Any], values: Mapping[str, Any], number: int, right: bool) -> None:
    """Keeps whether the first answer to an item with a known answer was right."""
    if values["version"] == 1:
        known = {"annotation": number, "person": values["person"], "item": place.item, "purpose": place.purpose}
        connection.execute(insert(checked).values(**known, right=int(right)))


def blocked(connection: Connection, settings: Settings, person: int) -> list[str]:
    """The domains of which the person got too few training items right."""
    trained = checked.join(item, checked.c.item == item.c.id).join(prompt, item.c.prompt == prompt.c.id)
    mine = (checked.c.person == person) & (checked.c.purpose == "training")
    rows = select(prompt.c.domain).select_from(trained).where(mine).group_by(prompt.c.domain)
    return list(connection.execute(rows.having(func.avg(checked.c.right) < settings.pass_mark)).scalars())


def look(connection: Connection, now: float, kind: Kind, person: int) -> str:
    """Pauses the person where the answers so far raise a flag; the flag, or nothing."""
    since = connection.execute(select(tables.person.c.since).where(tables.person.c.id == person)).scalar_one()
    flag = _gold(connection, person, since) or _pattern(connection, kind, person, since)
    if flag:
        people.set_state(connection, now, person, "paused", flag)
    return flag


def known_so_far(connection: Connection, person: int, since: int = 0, until: int | None = None) -> list[bool]:
    """Which gold items were right, in the order in which they were seen, after one annotation and up to another."""
    mine = (checked.c.person == person) & (checked.c.purpose == "gold") & (checked.c.annotation > since)
    mine &= true() if until is None else checked.c.annotation <= until
    rows = select(checked.c.right).where(mine).order_by(checked.c.annotation)
    return [bool(right) for right in connection.execute(rows).scalars()]


def _gold(connection: Connection, person: int, since: int) -> str:
    right = known_so_far(connection, person, since)
    return f"{right.count(False)} of {len(right)} known answers were missed" if GOLD.alarm(right) else ""


def _pattern(connection: Connection, kind: Kind, person: int, since: int) -> str:
    mine = (annotation.c.person == person) & (annotation.c.version == 1) & (annotation.c.act == "answered")
    fresh = mine & (annotation.c.id > since)
    columns = (annotation.c.value, annotation.c.sides, annotation.c.seconds, item.c.words, item.c.lengths)
    rows = select(*columns).join(item, annotation.c.item == item.c.id).where(fresh)
    last = connection.execute(rows.order_by(annotation.c.id.desc()).limit(LAST)).all()
    count = connection.execute(select(func.count()).select_from(annotation).where(fresh)).scalar_one()
    done = [_done(kind, row) for row in reversed(last)]
    return one_sided(done, count - len(done)) or too_fast(done) or by_length(done)


def _done(kind: Kind, row: Row[Any]) -> Done:
    shown = [row.lengths[side] for side in row.sides]
    longer = (shown[0] > shown[1]) - (shown[0] < shown[1]) if len(shown) == 2 else 0
    return Done(kind.side(row.value, row.sides), row.seconds, row.words, longer)
