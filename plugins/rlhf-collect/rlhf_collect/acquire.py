"""Which items to ask about next: those on which a reward model is least sure, and a random arm to compare with.

Settles & Craven 2008: sampling by uncertainty. The model is unsure where two rewards differ little (`margin`), or
where the members of an ensemble disagree on the difference (`variance`). Clusters of prompts take turns: the second
item of one comes after the first of every other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, update

from rlhf_collect.store import chain, tables
from rlhf_collect.study import Study
from rlhf_plugins import DataError, Prediction, load_reward_model

WAYS = ("margin", "variance")
BATCH = 256
item, prompt, slot = tables.item, tables.prompt, tables.slot


@dataclass(frozen=True)
class Open:
    """An item that nobody was given yet."""

    id: int
    prompt: str
    cluster: str
    answers: tuple[str, ...]


def prioritise(study: Study, reward: str, by: str = "margin", random_share: float = 0.2) -> tuple[int, int]:
    """Asks first about the items that a model is least sure of, with random ones between them.

    Returns how many items the model chose, and how many were drawn at random.

    Raises:
        DataError: the way is unknown, the share is out of its range, the items are not pairs, or `variance` is asked
            of a model that is no ensemble.
    """
    if by not in WAYS:
        raise DataError(f"unknown way {by!r} (known: {', '.join(WAYS)})")
    if not 0 <= random_share < 1:
        raise DataError(f"the random share should be at least 0 and below 1, got {random_share}")
    if study.kind.name != "pair":
        raise DataError(f"items of kind {study.kind.name} cannot be put in order yet, only pairs")
    with study.database.reading() as connection:
        found = list(unopened(connection))
    model = load_reward_model(reward)
    doubt = [one for start in range(0, len(found), BATCH) for one in _doubts(model, by, found[start : start + BATCH])]
    order = arranged(found, doubt, random_share, Random(f"{study.settings.seed}:{len(found)}"))
    with study.database.writing() as connection:
        lowest = connection.execute(select(func.min(slot.c.priority))).scalar() or 0.0
        for place, (number, arm) in enumerate(order):
            values = {"priority": min(lowest, 0.0) - len(order) + place, "arm": arm}
            connection.execute(update(slot).where(slot.c.item == number, slot.c.state == "free").values(values))
        arms = Counter(arm for _, arm in order)
        chain.append(connection, study.now(), "prioritised", {"reward": reward, "by": by, **arms})
    return arms["chosen"], arms["random"]


def arranged(found: Sequence[Open], doubt: Sequence[float], share: float, random: Random) -> list[tuple[int, str]]:
    """Items with their arms: each place goes to the random arm with the share's chance, else to the most doubtful.

    The random arm is drawn before anything is chosen, so that it is a fair sample of all items.
    """
    drawn = {one.id for one in found if random.random() < share}
    chosen = _diverse([(value, one) for value, one in zip(doubt, found, strict=True) if one.id not in drawn])
    aside = iter(random.sample(sorted(drawn), len(drawn)))
    order: list[tuple[int, str]] = []
    waiting = next(aside, None)
    for one in chosen:
        while waiting is not None and random.random() < share:
            order.append((waiting, "random"))
            waiting = next(aside, None)
        order.append((one.id, "chosen"))
    rest = [] if waiting is None else [waiting, *aside]
    return order + [(number, "random") for number in rest]


def _diverse(valued: Sequence[tuple[float, Open]]) -> list[Open]:
    seen: Counter[str] = Counter()
    placed = []
    for value, one in sorted(valued, key=lambda pair: (-pair[0], pair[1].id)):
        placed.append((seen[one.cluster], -value, one))
        seen[one.cluster] += 1
    return [one for *_, one in sorted(placed, key=lambda triple: (*triple[:2], triple[2].id))]


def predictions(model: Any, items: Sequence[Open]) -> tuple[Prediction, Prediction]:
    """The predictions for the first and the second answer of each item; one call scores both, each item by itself."""
    prompts = [one.prompt for one in items]
    first, second = (model.encode(prompts, [one.answers[place] for one in items]) for place in (0, 1))
    found, count = model.predict(first.beside(second)), len(items)
    sides = slice(count), slice(count, None)
    members = [None if found.members is None else found.members[side] for side in sides]
    one, other = (Prediction(found.reward[side], members=own) for side, own in zip(sides, members, strict=True))
    return one, other


def _doubts(model: Any, by: str, items: Sequence[Open]) -> list[float]:
    """For each item, how unsure the model is which answer is better; higher is less sure."""
    first, second = predictions(model, items)
    if by == "margin":
        near: list[float] = (-(first.reward - second.reward).abs()).tolist()
        return near
    if first.members is None or second.members is None:
        raise DataError("the reward model is no ensemble, so that nothing varies; take --by margin")
    spread: list[float] = (first.members - second.members).var(dim=1).tolist()
    return spread


def unopened(connection: Connection) -> Iterator[Open]:
    """Items whose slots are all free."""
    free = (
        select(slot.c.item)
        .where(slot.c.purpose == "judged")
        .group_by(slot.c.item)
        .having(func.count() == func.count().filter(slot.c.state == "free"))
    )
    yield from _found(connection, item.c.id.in_(free))


def known(connection: Connection) -> Iterator[Open]:
    """Gold and training items."""
    yield from _found(connection, item.c.purpose != "judged")


def _found(connection: Connection, wanted: ColumnElement[bool]) -> Iterator[Open]:
    texts = {row.id: row.text for row in connection.execute(select(tables.answer.c.id, tables.answer.c.text))}
    rows = select(item.c.id, item.c.answers, prompt.c.text, prompt.c.cluster).join(prompt).where(wanted)
    for row in connection.execute(rows.order_by(item.c.id)):
        yield Open(row.id, row.text, row.cluster, tuple(texts[one] for one in row.answers))
