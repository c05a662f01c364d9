"""Reads what people said, up to a watermark: the same rows for the same watermark, whatever came later."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from rlhf_collect.aggregate.votes import Vote
from rlhf_collect.kinds.base import Kind
from rlhf_collect.store import tables

annotation, item = tables.annotation, tables.item


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
    since: int = 0,
) -> list[Vote]:
    """The newest answer of each person to each item, a vote a part, by item and person; late ones are left out.

    `purpose` is that of the slot: `judged`, `gold`, or `review` for the answers of reviewers. Answers that confirm or
    correct a label that was shown are no independent votes: they are left out but for `verified`. Those up to the
    number `since` are not read.
    """
    newest = select(func.max(annotation.c.id)).where(annotation.c.id <= until, annotation.c.id > since)
    last = newest.where(annotation.c.surplus == 0).group_by(annotation.c.item, annotation.c.person)
    wanted = (annotation.c.act == "answered") & (tables.slot.c.purpose == purpose)
    rows = select(annotation).join(tables.slot, annotation.c.slot == tables.slot.c.id)
    rows = rows.where(annotation.c.id.in_(last), wanted)
    found = connection.execute(rows.order_by(annotation.c.item, annotation.c.person))
    return [
        Vote(row.item, row.person, label, row.value, row.seconds, row.version, part, bool(row.verified))
        for row in found
        if row.person not in without and (verified or not row.verified)
        for part, label in kind.parts(row.value).items()
    ]


def values_of(connection: Connection, of: int) -> list[Any]:
    """The values of the votes on one item so far; a reviewer's is none."""
    mine = (annotation.c.item == of) & (annotation.c.surplus == 0)
    newest = select(func.max(annotation.c.id)).where(mine).group_by(annotation.c.person)
    wanted = (annotation.c.act == "answered") & (tables.slot.c.purpose == "judged")
    rows = select(annotation.c.value).join(tables.slot, annotation.c.slot == tables.slot.c.id)
    return list(connection.execute(rows.where(annotation.c.id.in_(newest), wanted)).scalars())


def items(connection: Connection, ids: Collection[int]) -> dict[int, Item]:
    """Items by their numbers."""
    answers = {row.id: row for row in connection.execute(select(tables.answer))}
    columns = (item, tables.prompt.c.text, tables.prompt.c.domain, tables.prompt.c.cluster)
    first = (tables.slot.c.ordinal == 0) & (tables.slot.c.arm != "random")
    arms = {row.item: row.arm for row in connection.execute(select(tables.slot.c.item, tables.slot.c.arm).where(first))}
    found = {}
    for row in connection.execute(select(*columns).join(tables.prompt).where(item.c.purpose == "judged")):
        if row.id in ids:
            written = [answers[one] for one in row.answers]
            texts, origins = tuple(one.text for one in written), tuple(one.origin for one in written)
            arm = arms.get(row.id, "random")
            found[row.id] = Item(row.id, row.digest, row.text, row.domain, row.cluster, texts, origins, arm)
    return found
