"""What a person did and may still change, and the guidelines. It reads; what it gives is for that person's page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, exists, func, select

from rlhf_collect.store import tables, watch
from rlhf_collect.store.desk import Task, task_of
from rlhf_collect.store.people import Person
from rlhf_collect.study import Study

KEPT = 10  # answers that a person may change
TOGETHER, FEWEST = 25, 5  # answers that are looked at together; known ones that are shown, at least
annotation = tables.annotation


@dataclass(frozen=True)
class Past:
    """An answer in a list."""

    id: int
    when: str
    act: str


def answered(study: Study, person: Person) -> int:
    """Items that the person judged."""
    count = select(func.count(func.distinct(annotation.c.item)))
    mine = (annotation.c.person == person.id) & (annotation.c.act == "answered")
    with study.database.reading() as connection:
        return connection.execute(count.where(mine)).scalar_one()


def latest(study: Study, person: Person) -> list[Past]:
    """The last versions of the last items, newest first."""
    return [Past(row.id, _minute(row.at), row.act) for row in _last(study, person)]


def again(study: Study, person: Person, which: str) -> Task | None:
    """One of `latest`, by its number or `last`, with what was said; None where it is not among them."""
    rows = _last(study, person)
    chosen = rows[:1] if which == "last" else [row for row in rows if str(row.id) == which]
    if not chosen:
        return None
    row = chosen[0]
    said = study.kind.shown(row.value, row.sides) if row.value is not None else {}
    confidence = str(row.confidence or "")
    with study.database.reading() as connection:
        place = connection.execute(select(tables.slot).where(tables.slot.c.id == row.slot)).one()
        mine = (tables.lease.c.slot == row.slot) & (tables.lease.c.person == person.id)
        token = connection.execute(select(tables.lease.c.token).where(mine)).scalars().first()
        task = task_of(connection, study, place, token or "")
    return replace(task, form={**said, "confidence": confidence, "reason": row.reason})


def feedback(study: Study, person: Person) -> tuple[int, int] | None:
    """How many known answers were right, of how many, as they were after the last 25, 50, ... answers.

    Numbers that moved with each known answer would tell which it was.
    """
    first = (annotation.c.person == person.id) & (annotation.c.version == 1)
    with study.database.reading() as connection:
        done = connection.execute(select(func.count()).select_from(annotation).where(first)).scalar_one()
        whole = done // TOGETHER * TOGETHER
        if not whole:
            return None
        last = select(annotation.c.id).where(first).order_by(annotation.c.id).offset(whole - 1).limit(1)
        right = watch.known_so_far(connection, person.id, until=connection.execute(last).scalar_one())
    return (sum(right), len(right)) if len(right) >= FEWEST else None


def guidelines(study: Study) -> Any:
    """The newest `version` and its `html`."""
    newest = select(tables.guideline).order_by(tables.guideline.c.version.desc()).limit(1)
    with study.database.reading() as connection:
        return connection.execute(newest).one()


def _last(study: Study, person: Person) -> list[Row[Any]]:
    later = annotation.alias()
    its = (later.c.item == annotation.c.item) & (later.c.person == annotation.c.person)
    newest = (annotation.c.person == person.id) & ~exists().where(its & (later.c.version > annotation.c.version))
    shown = tables.item.c.purpose != "training"  # gold ones are among them, or a person could tell which they are
    judged = select(annotation).join(tables.item).where(newest, shown)
    with study.database.reading() as connection:
        return list(connection.execute(judged.order_by(annotation.c.id.desc()).limit(KEPT)))


def _minute(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
