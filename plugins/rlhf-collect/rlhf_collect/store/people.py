"""People, the links that let them in once, and their sessions. Only digests of secrets are kept."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from rlhf_collect.store import chain, tables
from rlhf_plugins import DataError

ROLES = ("annotator", "reviewer", "lead")
TICKET_SECONDS, SESSION_SECONDS = 24 * 3600.0, 14 * 24 * 3600.0
LONGEST_NAME = 60


@dataclass(frozen=True)
class Person:
    """Who is at the page."""

    id: int
    name: str
    role: str
    state: str
    reason: str
    language: str
    csrf: str = ""


def invite(connection: Connection, now: float, name: str, role: str = "annotator") -> str:
    """A secret that lets the person in once, for a day; makes the person where there is none. Raises DataError."""
    name = name.strip()
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise DataError(f"a name should have 1 to {LONGEST_NAME} printable characters, got {name!r:.80}")
    if role not in ROLES:
        raise DataError(f"unknown role {role!r} (known: {', '.join(ROLES)})")
    known = connection.execute(select(tables.person).where(tables.person.c.name == name)).first()
    if known and known.role != role:
        raise DataError(f"{name} is a {known.role} already")
    person = known.id if known else _add(connection, now, name, role)
    secret = secrets.token_urlsafe(32)
    values = {"digest": _digest(secret), "person": person, "until": now + TICKET_SECONDS}
    connection.execute(insert(tables.ticket).values(values))
    chain.append(connection, now, "invited", {"person": person})
    return secret


def enter(connection: Connection, now: float, secret: str) -> str | None:
    """A session for the link's secret, which is used up; None where it is unknown, used or too old."""
    used = delete(tables.ticket).where(tables.ticket.c.digest == _digest(secret)).returning(tables.ticket)
    ticket = connection.execute(used).first()
    if ticket is None or ticket.until < now:
        return None
    token = secrets.token_urlsafe(32)
    values = {"person": ticket.person, "csrf": secrets.token_urlsafe(32), "until": now + SESSION_SECONDS}
    connection.execute(insert(tables.session).values(digest=_digest(token), **values))
    chain.append(connection, now, "entered", {"person": ticket.person})
    return token


def who(connection: Connection, now: float, token: str) -> Person | None:
    """The person of a session."""
    c = tables.person.c
    columns = (c.id, c.name, c.role, c.state, c.reason, c.language, tables.session.c.csrf)
    there = (tables.session.c.digest == _digest(token)) & (tables.session.c.until >= now)
    found = connection.execute(select(*columns).join_from(tables.session, tables.person).where(there)).first()
    return Person(**found._asdict()) if found else None


def everyone(connection: Connection) -> list[Person]:
    """All of them, in the order in which they joined."""
    c = tables.person.c
    rows = select(c.id, c.name, c.role, c.state, c.reason, c.language).order_by(c.id)
    return [Person(**row._asdict()) for row in connection.execute(rows)]


def speak(connection: Connection, person: int, language: str) -> None:
    """The language of the person's pages from now on."""
    connection.execute(update(tables.person).where(tables.person.c.id == person).values(language=language))


def leave(connection: Connection, token: str) -> None:
    """Ends a session."""
    connection.execute(delete(tables.session).where(tables.session.c.digest == _digest(token)))


def named(connection: Connection, name: str) -> int:
    """The person's number. Raises DataError naming the nearest."""
    known = {row.name: row.id for row in connection.execute(select(tables.person.c.name, tables.person.c.id))}
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise DataError(f"nobody is called {name!r}{f' (did you mean {near[0]}?)' if near else ''}")
    return int(known[name])


def set_state(connection: Connection, now: float, person: int, state: str, reason: str = "") -> None:
    """Pauses a person, or lets one go on; what the person did is kept, and flags are looked for in what comes after."""
    last = connection.execute(select(func.max(tables.annotation.c.id))).scalar() or 0
    changed = update(tables.person).where(tables.person.c.id == person)
    connection.execute(changed.values(state=state, reason=reason, since=last))
    if state == "paused":
        mine = (tables.slot.c.person == person) & (tables.slot.c.state == "leased")
        connection.execute(update(tables.slot).where(mine).values(state="free", person=None, until=None))
    chain.append(connection, now, state, {"person": person, "reason": reason})


def _add(connection: Connection, now: float, name: str, role: str) -> int:
    values: dict[str, Any] = {"name": name, "role": role, "state": "active", "created": now}
    made = connection.execute(insert(tables.person).values(values)).inserted_primary_key
    assert made
    chain.append(connection, now, "joined", {"person": made[0], "role": role})
    return int(made[0])


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
