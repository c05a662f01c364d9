"""Puts prompts, answers and items into a study. What is there already, by its digest, is counted and left as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from random import Random
from typing import Any

from sqlalchemy import Connection, func, insert, select

from rlhf_collect.kinds.base import Kind
from rlhf_collect.markup import html
from rlhf_collect.settings import Settings
from rlhf_collect.store import tables
from rlhf_collect.store.chain import digest
from rlhf_collect.store.rows import Asked


class Content:
    """Writes rows within one transaction."""

    def __init__(self, connection: Connection, kind: Kind, settings: Settings) -> None:
        self.connection, self.kind, self.settings = connection, kind, settings
        self.left_out: Counter[str] = Counter()
        self.added: Counter[str] = Counter()
        self._lengths: dict[int, tuple[int, int]] = {}  # of answers: characters and words
        self._random = Random(f"{settings.seed}:{self._last(tables.item)}")

    def add(self, rows: Iterable[Asked]) -> None:
        """Every row's prompt, answers and items. Raises DataError where a known judgement cannot be read."""
        for row in rows:
            known = None if row.known is None else self.kind.known(row.known)
            texts = {digest(one.text): one for one in row.answers}
            if len(texts) < self.kind.least:
                self.left_out[f"fewer than {self.kind.least} different answers"] += 1
                continue
            prompt = self._prompt(row)
            ids = [self._answer(prompt, name, one.text, dict(one.origin)) for name, one in texts.items()]
            for chosen in self._chosen(ids):
                self._item(prompt, chosen, row, known)

    def _chosen(self, ids: list[int]) -> Iterable[tuple[int, ...]]:
        """Every pair of two answers, where a question has two; all together otherwise."""
        return combinations(ids, self.kind.most) if len(ids) > self.kind.most else [tuple(ids)]

    def _prompt(self, row: Asked) -> int:
        name = digest(row.prompt)
        cluster = row.cluster or " ".join(row.prompt.casefold().split())[:200]
        values = {"text": row.prompt, "html": html(row.prompt), "domain": row.domain, "cluster": cluster}
        return self._once(tables.prompt, tables.prompt.c.digest == name, {"digest": name, **values})[0]

    def _answer(self, prompt: int, name: str, text: str, origin: dict[str, Any]) -> int:
        there = (tables.answer.c.prompt == prompt) & (tables.answer.c.digest == name)
        values = {"prompt": prompt, "digest": name, "text": text, "html": html(text), "origin": origin}
        number = self._once(tables.answer, there, values)[0]
        self._lengths[number] = len(text), len(text.split())
        return number

    def _item(self, prompt: int, answers: tuple[int, ...], row: Asked, known: Any) -> None:
        name = digest(prompt, sorted(answers))
        texts = [self._lengths[one] for one in answers]
        words = len(row.prompt.split()) + sum(count for _, count in texts)
        values = {"digest": name, "prompt": prompt, "answers": list(answers), "purpose": row.purpose, "arm": "random"}
        values |= {"lengths": [length for length, _ in texts], "words": words}
        item, new = self._once(tables.item, tables.item.c.digest == name, values)
        if not new:
            self.left_out["twice"] += 1
            return
        self.added[row.purpose] += 1
        if row.purpose == "judged":
            self._slots(item, len(answers))
        else:
            told = {"item": item, "value": known, "explanation": html(row.explanation)}
            self.connection.execute(insert(tables.gold).values(told))

    def _slots(self, item: int, answers: int) -> None:
        priority = self._random.random()
        made = [
            {"item": item, "ordinal": ordinal, "purpose": "judged", "priority": priority, "state": "free"}
            | {"sides": sides(answers, self._random)}
            for ordinal in range(self.settings.votes)
        ]
        self.connection.execute(insert(tables.slot), made)

    def _once(self, table: Any, there: Any, values: dict[str, Any]) -> tuple[int, bool]:
        found = self.connection.execute(select(table.c.id).where(there)).scalar()
        if found is not None:
            return found, False
        made = self.connection.execute(insert(table).values(values)).inserted_primary_key
        assert made
        return made[0], True

    def _last(self, table: Any) -> int:
        return self.connection.execute(select(func.max(table.c.id))).scalar() or 0


def sides(answers: int, random: Random) -> list[int]:
    """Places of the answers in random order."""
    return random.sample(range(answers), answers)
