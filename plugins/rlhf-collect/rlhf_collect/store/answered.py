"""Pairs as items of a study, which of them still wait for votes, and what their votes say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, select

from rlhf_collect.aggregate.votes import Vote, by_question
from rlhf_collect.store import judged, tables
from rlhf_collect.store.chain import digest
from rlhf_collect.store.rows import Asked, Written
from rlhf_collect.study import Study

WORTH = {"a": 1.0, "tie": 0.5, "b": 0.0}  # vote -> what it counts for the item's first answer


def items_of(study: Study, pairs: Sequence[tuple[Any, str, str]]) -> list[tuple[int, bool] | None]:
    """The item of each pair and whether it has the answers the other way round; None where no item can hold it.

    Those that the study does not hold are added.
    """
    rows = [Asked("judge", prompt, (Written(one, {}), Written(other, {}))) for prompt, one, other in pairs]
    study.add(rows)
    with study.database.reading() as connection:
        asked = _by_digest(connection, tables.prompt, [digest(pair[0]) for pair in pairs])
        prompts = [asked.get(digest(pair[0])) for pair in pairs]
        texts = [
            [digest(row.id, text) if row else "" for text in pair[1:]] for row, pair in zip(prompts, pairs, strict=True)
        ]
        written = _by_digest(connection, tables.answer, [one for both in texts for one in both])
        answers = [[written[one].id for one in both if one in written] for both in texts]
        names = [digest(row.id, sorted(both)) if row else "" for row, both in zip(prompts, answers, strict=True)]
        there = _by_digest(connection, tables.item, names)
    found = [there.get(name) for name in names]
    return [
        (row.id, row.answers != both) if row and row.purpose == "judged" else None
        for row, both in zip(found, answers, strict=True)
    ]


def _by_digest(connection: Connection, table: Table, names: Sequence[str]) -> dict[str, Row[Any]]:
    """Rows by their digests."""
    found: dict[str, Row[Any]] = {}
    for some in judged.in_lots(sorted({*names})):
        rows = connection.execute(select(table).where(table.c.digest.in_(some)))
        found |= {row.digest: row for row in rows}
    return found


def open_items(study: Study, wanted: Collection[int]) -> set[int]:
    """The items among those wanted that still wait for at least one vote."""
    slot, found = tables.slot, set[int]()
    left = select(slot.c.item).where(slot.c.purpose == "judged", slot.c.state != "done")
    with study.database.reading() as connection:
        for some in judged.in_lots(sorted(wanted)):
            found |= set(connection.execute(left.where(slot.c.item.in_(some))).scalars())
    return found


def shares(study: Study, wanted: Collection[int]) -> dict[int, float]:
    """The share of an item's votes for its first answer; those of paused people do not count."""
    person, votes = tables.person, list[Vote]()
    with study.database.reading() as connection:
        paused = set(connection.execute(select(person.c.id).where(person.c.state == "paused")).scalars())
        until = judged.watermark(connection)
        for some in judged.in_lots(sorted(wanted)):
            among = tables.annotation.c.item.in_(some)
            votes += judged.votes(connection, study.kind, until, paused, among=among)
    of = {item: given for (item, _), given in by_question(votes).items()}
    return {item: sum(WORTH[vote.label] for vote in given) / len(given) for item, given in of.items()}
