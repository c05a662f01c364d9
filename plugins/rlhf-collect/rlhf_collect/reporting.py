"""The report of a study as text: what was done, by whom, and what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, func, select

from rlhf_collect.aggregate.majority import majority
from rlhf_collect.store import chain, judged, tables
from rlhf_collect.study import Study


def lines(study: Study) -> Iterator[str]:
    """Line by line."""
    with study.database.reading() as connection:
        yield from _items(connection)
        said = judged.votes(connection, study.kind, judged.watermark(connection))
        verdicts = majority(said)
        labels = Counter(verdict.label or "undecided" for verdict in verdicts.values())
        yield f"answers: {len(said)} on {len(verdicts)} items"
        yield f"labels: {_listed(labels)}"
        yield from _people(connection)
        broken = chain.first_broken(connection)
        yield "log: whole" if broken is None else f"log: broken at event {broken}"


def _items(connection: Connection) -> Iterator[str]:
    yield f"items: {_listed(_counted(connection, tables.item.c.purpose))}"
    yield f"slots: {_listed(_counted(connection, tables.slot.c.state, tables.slot.c.purpose == 'judged'))}"


def _counted(connection: Connection, column: Any, *where: Any) -> dict[str, int]:
    rows = connection.execute(select(column, func.count()).where(*where).group_by(column))
    return {str(name): count for name, count in rows.all()}


def _people(connection: Connection) -> Iterator[str]:
    annotation = tables.annotation
    count = func.count(func.distinct(annotation.c.item)).label("done")
    columns = (tables.person.c.name, tables.person.c.role, tables.person.c.state, count)
    rows = select(*columns).select_from(tables.person).outerjoin(annotation).group_by(tables.person.c.id)
    for row in connection.execute(rows.order_by(tables.person.c.id)):
        yield f"{row.role} {row.name}: {row.done} items, {row.state}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
