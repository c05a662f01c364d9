"""What a model says of items, kept beside them. It is never a vote; who sees it is for the desk."""

from __future__ import annotations

from sqlalchemy import insert, select

from rlhf_collect.acquire import BATCH, Open, known, predictions, unopened
from rlhf_collect.store import chain, tables
from rlhf_collect.study import Study
from rlhf_plugins import DataError, load_reward_model


def suggest(study: Study, reward: str, verify: bool = False) -> int:
    """Suggests the answer of the higher reward for items that nobody was given yet and that have no suggestion.

    To `verify`, people see it before they answer; gold and training items get one too, or they would stand out.

    Raises DataError where items are no pairs. Returns how many items it suggested for.
    """
    if study.kind.name != "pair":
        raise DataError(f"a reward model compares two answers; items of kind {study.kind.name} get no suggestions yet")
    with study.database.reading() as connection:
        there = set(connection.execute(select(tables.suggestion.c.item)).scalars())
        wanted = [*unopened(connection), *(known(connection) if verify else ())]
        items = [one for one in wanted if one.id not in there]
    keep(study, {one.id: value for one, value in zip(items, _values(reward, items), strict=True)}, reward, verify)
    return len(items)


def keep(study: Study, values: dict[int, int], origin: str, verify: bool = False) -> None:
    """Writes suggestions by the numbers of items."""
    common = {"origin": {"reward": origin}, "before": int(verify)}
    rows = [{"item": item, "value": value, **common} for item, value in values.items()]
    with study.database.writing() as connection:
        if rows:
            connection.execute(insert(tables.suggestion), rows)
        chain.append(connection, study.now(), "suggested", {"reward": origin, "items": len(rows)})


def _values(reward: str, items: list[Open]) -> list[int]:
    model, found = load_reward_model(reward), []
    for start in range(0, len(items), BATCH):
        first, second = predictions(model, items[start : start + BATCH])
        found += [(a > b) - (a < b) for a, b in zip(first.reward.tolist(), second.reward.tolist(), strict=True)]
    return found
