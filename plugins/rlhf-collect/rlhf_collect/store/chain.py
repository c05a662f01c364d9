"""The log of a study: each event holds a digest of itself and of the one before it, so that no past changes unseen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from rlhf_collect.store.tables import log

START = "0" * 64
PEOPLE = ("able", "without")  # lists of numbers of people, in events and releases


def digest(*parts: Any) -> str:
    """SHA-256 of values as JSON, equal for equal values; 64 hexadecimal digits."""
    return sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def append(connection: Connection, at: float, what: str, body: Mapping[str, Any]) -> int:
    """Adds an event within the transaction of what it tells of; returns its number."""
    last = connection.execute(select(log.c.number, log.c.digest).order_by(log.c.number.desc()).limit(1)).first()
    number, before = (last.number + 1, last.digest) if last else (1, START)
    sealed = digest(before, number, at, what, body)
    connection.execute(insert(log).values(number=number, at=at, what=what, body=body, digest=sealed))
    return number


def first_broken(connection: Connection) -> int | None:
    """The number of the first event that is missing or not as it was written; None where the chain is whole."""
    before, expected = START, 1
    for row in connection.execute(select(log).order_by(log.c.number)):
        if row.number != expected or row.digest != digest(before, row.number, row.at, row.what, row.body):
            return expected
        before, expected = row.digest, row.number + 1
    return None


def forget(connection: Connection, person: int) -> None:
    """Deletes a person's events, takes the number out of the others, and numbers and seals these again.

    An event that was not as it was written keeps its digest: a broken log stays broken.
    """
    before = sealed = START
    gone, left = list[dict[str, int]](), list[dict[str, Any]]()
    for row in connection.execute(select(log).order_by(log.c.number)).all():
        whole = row.digest == digest(before, row.number, row.at, row.what, row.body)
        before = row.digest
        if row.body.get("person") == person:
            gone.append({"old": row.number})
            continue
        number, body = row.number - len(gone), without(row.body, person)
        sealed = digest(sealed, number, row.at, row.what, body) if whole else row.digest
        left.append({"old": row.number, "number": number, "body": body, "digest": sealed})
    this = log.c.number == bindparam("old")
    if gone:
        connection.execute(delete(log).where(this), gone)
    connection.execute(update(log).where(this), left)


def without(body: Mapping[str, Any], person: int) -> dict[str, Any]:
    """The same with the person's number taken out of its lists of people."""
    found: dict[str, Any] = {}
    for name, value in body.items():
        inner = without(value, person) if isinstance(value, dict) else value
        found[name] = [one for one in inner if one != person] if name in PEOPLE else inner
    return found
