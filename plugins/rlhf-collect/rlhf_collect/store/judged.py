"""Reads what people said, up to a watermark: the same rows for the same watermark, whatever came later."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select, true

from rlhf_collect.aggregate.votes import Vote
from rlhf_collect.kinds.base import Kind
from rlhf_collect.store import tables

annotation, item, slot = tables.annotation, tables.item, tables.slot
ASKED = 10_000  # values in one query: a database takes some 32,000 parameters


@dataclass(frozen=True)
class Item:
    """An item with its texts."""

    id: int
    digest: str
    prompt: str
    domain: str
    cluster: str
    answers: tuple[str, ...]
    origins: tuple[Mapping[str, Any], ...]
    arm: str  # random or chosen: what put it where it was in the queue


def watermark(connection: Connection) -> int:
    """The number of the last annotation; 0 where there is none."""
    return connection.execute(select(func.max(annotation.c.id))).scalar() or 0


def votes(
    connection: Connection,
    kind: Kind,
    until: int,
    without: Collection[int] = (),
    purpose: str = "judged",
    verified: bool = False,
    among: ColumnElement[bool] | None = None,
) -> list[Vote]:
    """The newest answer of each person to each item, a vote a part, by item and person; late ones are left out.

    `purpose` is that of the slot: `judged`, `gold`, or `review` for the answers of reviewers. Answers that confirm or
    correct a label that was shown are no independent votes: they are left out but for `verified`. Only annotations for
    which `among` holds are read.
    """
    newest = select(func.max(annotation.c.id)).where(annotation.c.id <= until, true() if among is None else among)
    last = newest.where(annotation.c.surplus == 0).group_by(annotation.c.item, annotation.c.person)
    wanted = (annotation.c.act == "answered") & (slot.c.purpose == purpose)
    rows = select(annotation, slot.c.divided).join(slot, annotation.c.slot == slot.c.id)
    rows = rows.where(annotation.c.id.in_(last), wanted)
    found = connection.execute(rows.order_by(annotation.c.item, annotation.c.person))
    return [
        Vote(
            row.item,
            row.person,
            label,
            row.value,
            row.seconds,
            row.version,
            part,
            bool(row.verified),
            bool(row.divided),
        )
        for row in found
        if row.person not in without and (verified or not row.verified)
        for part, label in kind.parts(row.value).items()
    ]


def values_of(connection: Connection, of: int) -> list[Any]:
    """The values of the votes on one item so far; a reviewer's is none."""
    mine = (annotation.c.item == of) & (annotation.c.surplus == 0)
    newest = select(func.max(annotation.c.id)).where(mine).group_by(annotation.c.person)
    wanted = (annotation.c.act == "answered") & (slot.c.purpose == "judged")
    rows = select(annotation.c.value).join(slot, annotation.c.slot == slot.c.id)
    return list(connection.execute(rows.where(annotation.c.id.in_(newest), wanted)).scalars())


def items(connection: Connection, ids: Collection[int]) -> dict[int, Item]:
    """Items by their numbers."""
    found: dict[int, Item] = {}
    for some in in_lots(sorted(ids)):
        found |= _items(connection, some)
    return found


def in_lots(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """So many at once as a query may name."""
    return (values[start : start + ASKED] for start in range(0, len(values), ASKED))


def _items(connection: Connection, ids: Sequence[int]) -> dict[int, Item]:
    columns = (item, tables.prompt.c.text, tables.prompt.c.domain, tables.prompt.c.cluster)
    rows = connection.execute(select(*columns).join(tables.prompt).where(item.c.id.in_(ids)).order_by(item.c.id)).all()
    first = slot.c.item.in_(ids) & (slot.c.ordinal == 0)
    arms = {row.item: row.arm for row in connection.execute(select(slot.c.item, slot.c.arm).where(first))}
    answers: dict[int, Row[Any]] = {}
    for some in in_lots([one for row in rows for one in row.answers]):
        written = select(tables.answer.c.id, tables.answer.c.text, tables.answer.c.origin)
        answers |= {row.id: row for row in connection.execute(written.where(tables.answer.c.id.in_(some)))}
    return {row.id: _item(row, [answers[one] for one in row.answers], arms.get(row.id, "random")) for row in rows}


def _item(row: Row[Any], written: Sequence[Row[Any]], arm: str) -> Item:
    texts, origins = tuple(one.text for one in written), tuple(one.origin for one in written)
    return Item(row.id, row.digest, row.text, row.domain, row.cluster, texts, origins, arm)
