"""Pairs as items of a study, which of them still wait for votes, and what their votes say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select

from rlhf_collect.aggregate.votes import by_question
from rlhf_collect.store import judged, tables
from rlhf_collect.store.rows import Asked, Written
from rlhf_collect.study import Study

WORTH = {"a": 1.0, "tie": 0.5, "b": 0.0}  # of a vote, for the item's first answer


def items_of(study: Study, pairs: Sequence[tuple[Any, str, str]]) -> list[tuple[int, bool] | None]:
    """The item of each pair and whether it has the answers the other way round; None where no item can hold it.

    Those that the study does not hold are added.
    """
    rows = [Asked("judge", prompt, (Written(one, {}), Written(other, {}))) for prompt, one, other in pairs]
    study.add(rows)
    prompts, answer, item = tables.prompt, tables.answer, tables.item
    with study.database.reading() as connection:
        texts = {row.id: row.text for row in connection.execute(select(prompts.c.id, prompts.c.text))}
        asked = {text: number for number, text in texts.items() if text in {pair[0] for pair in pairs}}
        mine = answer.c.prompt.in_(asked.values())
        written = {row.id: row.text for row in connection.execute(select(answer.c.id, answer.c.text).where(mine))}
        wanted = item.c.prompt.in_(asked.values()) & (item.c.purpose == "judged")
        there = connection.execute(select(item.c.id, item.c.prompt, item.c.answers).where(wanted)).all()
    found = {(texts[row.prompt], *(written[one] for one in row.answers)): row.id for row in there}
    return [
        (found[pair], False) if pair in found else (found[turned], True) if (turned := _turned(pair)) in found else None
        for pair in pairs
    ]


def _turned(pair: tuple[Any, str, str]) -> tuple[Any, str, str]:
    prompt, one, other = pair
    return prompt, other, one


def open_items(study: Study, wanted: Collection[int]) -> set[int]:
    """Those of the items that have a place for a vote which nobody gave yet."""
    slot = tables.slot
    left = select(slot.c.item).where(slot.c.purpose == "judged", slot.c.state != "done")
    with study.database.reading() as connection:
        return set(wanted) & set(connection.execute(left).scalars())


def shares(study: Study, wanted: Collection[int]) -> dict[int, float]:
    """The share of an item's votes for its first answer; those of paused people do not count."""
    person = tables.person
    with study.database.reading() as connection:
        paused = set(connection.execute(select(person.c.id).where(person.c.state == "paused")).scalars())
        votes = judged.votes(connection, study.kind, judged.watermark(connection), paused)
    of = {item: given for (item, _), given in by_question(votes).items() if item in wanted}
    return {item: sum(WORTH[vote.label] for vote in given) / len(given) for item, given in of.items()}
