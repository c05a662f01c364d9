"""Puts prompts, answers and items into a study. What is there already, by its digest, is counted and left as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from random import Random
from typing import Any, TypeAlias

from sqlalchemy import Connection, Table, func, insert, select

from rlhf_collect.kinds.base import Kind
from rlhf_collect.markup import html
from rlhf_collect.settings import Settings
from rlhf_collect.store import tables
from rlhf_collect.store.chain import digest
from rlhf_collect.store.judged import in_lots
from rlhf_collect.store.rows import Asked, Written
from rlhf_plugins import DataError, Group

CHUNK = 500  # rows that are written together
Values: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Planned:
    """An item before it is known whether it is new."""

    row: Asked
    prompt: int
    answers: tuple[int, ...]
    texts: tuple[str, ...]


class Content:
    """Writes rows within one transaction."""

    def __init__(self, connection: Connection, kind: Kind, settings: Settings) -> None:
        self.connection, self.kind, self.settings = connection, kind, settings
        self.left_out: Counter[str] = Counter()
        self.added: Counter[str] = Counter()
        self._random = Random(f"{settings.seed}:{_last(connection, tables.item)}")

    def add(self, rows: Iterable[Asked]) -> None:
        """Every row's prompt, answers and items. Raises DataError where a known judgement cannot be read."""
        found = usable(rows, self.kind, self.left_out)
        while chunk := list(islice(found, CHUNK)):
            prompts = self._ids(tables.prompt, {digest(row.prompt): _prompt_of(row) for row in chunk})
            self._items(list(self._planned(chunk, prompts)))

    def _planned(self, chunk: Sequence[Asked], prompts: dict[str, int]) -> Iterator[Planned]:
        """Every pair of a row's answers, where a question has two; all of them together otherwise."""
        asked = [(row, prompts[digest(row.prompt)], {one.text: one for one in row.answers}) for row in chunk]
        wanted = {digest(p, text): _answer_of(p, one) for _, p, texts in asked for text, one in texts.items()}
        answers = self._ids(tables.answer, wanted)
        for row, prompt, texts in asked:
            size = self.kind.most if len(texts) > self.kind.most else len(texts)
            for chosen in combinations(texts, size):
                yield Planned(row, prompt, tuple(answers[digest(prompt, text)] for text in chosen), chosen)

    def _items(self, planned: Sequence[Planned]) -> None:
        """Writes those that are new, with their slots or their known judgements."""
        named: dict[str, Planned] = {}
        for one in planned:
            named.setdefault(digest(one.prompt, sorted(one.answers)), one)
        first = _last(self.connection, tables.item)
        ids = self._ids(tables.item, {name: _item_of(one) for name, one in named.items()})
        fresh = {ids[name]: one for name, one in named.items() if ids[name] > first}
        self.added.update(one.row.purpose for one in fresh.values())
        if len(planned) > len(fresh):
            self.left_out["twice"] += len(planned) - len(fresh)
        judged = [slot for item, one in fresh.items() if one.row.purpose == "judged" for slot in self._slots(item, one)]
        known = [self._gold(item, one) for item, one in fresh.items() if one.row.purpose != "judged"]
        shown = [self._shown(item, one) for item, one in fresh.items() if one.row.verify is not None]
        self._write(tables.slot, judged)
        self._write(tables.gold, known)
        self._write(tables.suggestion, shown)

    def _slots(self, item: int, planned: Planned) -> Iterator[Values]:
        priority = self._random.random()
        for ordinal in range(self.settings.votes):
            place = {"item": item, "ordinal": ordinal, "sides": sides(len(planned.answers), self._random)}
            yield {**place, "purpose": "judged", "priority": priority, "state": "free"}

    def _gold(self, item: int, planned: Planned) -> Values:
        row = planned.row
        return {
            "item": item,
            "value": self.kind.known(row.known, len(planned.answers)),
            "explanation": html(row.explanation),
        }

    def _shown(self, item: int, planned: Planned) -> Values:
        value = self.kind.known(planned.row.verify, len(planned.answers))
        return {"item": item, "value": value, "origin": {"row": planned.row.where}, "before": 1}

    def _ids(self, table: Table, wanted: dict[str, Callable[[], Values]]) -> dict[str, int]:
        """The number of each row by its digest; those that are not there are made and written."""
        names, found = list(wanted), dict[str, int]()
        for some in in_lots(names):
            rows = self.connection.execute(select(table.c.digest, table.c.id).where(table.c.digest.in_(some)))
            found |= {row.digest: row.id for row in rows}
        last = _last(self.connection, table)
        fresh = {name: last + n for n, name in enumerate((name for name in wanted if name not in found), 1)}
        self._write(table, [{"id": number, "digest": name, **wanted[name]()} for name, number in fresh.items()])
        return found | fresh

    def _write(self, table: Table, rows: list[Values]) -> None:
        if rows:
            self.connection.execute(insert(table), rows)


def usable(rows: Iterable[Asked], kind: Kind, left_out: Counter[str]) -> Iterator[Asked]:
    """The rows that people can judge; others are counted. Raises DataError where a known judgement cannot be read."""
    for row in rows:
        if not all(map(_whole, (row.prompt, row.domain, row.cluster, *(one.text for one in row.answers)))):
            left_out["with half a character or NUL"] += 1
            continue
        different = len({one.text for one in row.answers})
        for name, label in (("gold", row.known), ("verify", row.verify)):
            if label is not None:
                _check(row.where, kind, name, label, different)
        left_out[f"fewer than {kind.least} different answers"] += different < kind.least
        if different >= kind.least:
            yield row


def _check(where: str, kind: Kind, name: str, label: Any, different: int) -> None:
    """Raises DataError where a known judgement, or one to verify, is not of the row's answers."""
    if different > kind.most:
        raise DataError(f"{where}: {name} is of at most {kind.most} different responses, got {different}")
    try:
        known = kind.known(label, different)
    except DataError as error:
        raise DataError(f"{where}: {name} {error}") from error
    if name == "gold" and not kind.can_be_missed(known):
        raise DataError(f"{where}: gold {label!r:.40} fits every answer, so that it tells nothing of a person")


def sides(answers: int, random: Random) -> list[int]:
    """Places of the answers in random order."""
    return random.sample(range(answers), answers)


def _whole(text: str) -> bool:
    """Whether it can be written: JSON can hold one half of a surrogate pair, and NUL, which PostgreSQL cannot."""
    return not any("\ud800" <= one <= "\udfff" or one == "\0" for one in text)


def _prompt_of(row: Asked) -> Callable[[], Values]:
    cluster = row.cluster or Group(row.prompt).prompt_words
    return lambda: {"text": row.prompt, "html": html(row.prompt), "domain": row.domain, "cluster": cluster}


def _answer_of(prompt: int, one: Written) -> Callable[[], Values]:
    return lambda: {"prompt": prompt, "text": one.text, "html": html(one.text), "origin": dict(one.origin)}


def _item_of(one: Planned) -> Callable[[], Values]:
    words = sum(len(text.split()) for text in (one.row.prompt, *one.texts))
    values = {"prompt": one.prompt, "answers": list(one.answers), "purpose": one.row.purpose}
    return lambda: values | {"lengths": list(map(len, one.texts)), "words": words}


def _last(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.max(table.c.id))).scalar() or 0
