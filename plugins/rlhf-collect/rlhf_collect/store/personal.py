"""What is kept of one person: all of it to show, or to delete in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, delete, func, select, update
from sqlalchemy.exc import DatabaseError

from rlhf_collect.store import ability, chain, judged, people, tables
from rlhf_collect.study import FILE, Study, why
from rlhf_plugins import DataError

WORDS = {  # for the rows of each table with a column `person`; what others refer to comes first
    "slot": "places",
    "lease": "leases",
    "annotation": "judgements",
    "checked": "checked answers",
    "hint": "suggestions",
    "ticket": "links",
    "session": "sessions",
}
EVENTS = "events"
SECRETS = {"token", "csrf", "digest"}  # columns that let somebody in
TIMES = {"created", "at", "started", "until"}
TABLES = tuple(tables.metadata.tables[name] for name in WORDS)


@dataclass(frozen=True)
class Kept:
    """How much is kept of a person, and what a deletion does not reach."""

    counts: Mapping[str, int]  # by the word for it
    releases: tuple[int, ...]  # numbers of the releases that count the person's judgements
    copies: tuple[Path, ...]  # copies of the study's file, made before migrations


def kept(study: Study, name: str) -> Kept:
    """Raises DataError naming the nearest where nobody has the name."""
    with study.database.reading() as connection:
        return _kept(study, connection, people.named(connection, name))


def about(study: Study, name: str) -> dict[str, Any]:
    """All that is kept of a person but secrets, as JSON: times in ISO 8601, judgements with the texts of their items.

    Raises DataError naming the nearest where nobody has the name.
    """
    with study.database.reading() as connection:
        person = people.named(connection, name)
        row = connection.execute(select(tables.person).where(tables.person.c.id == person)).one()
        found = {word: _rows(connection, table, mine) for word, table, mine in _theirs(person)}
        items = judged.items(connection, {one["item"] for one in found["judgements"]})
    texts = {one.id: {"prompt": one.prompt, "answers": one.answers} for one in items.values()}
    found["judgements"] = [{**one, **texts[one["item"]]} for one in found["judgements"]]
    return {"person": _shown(row), **found}


def forget(study: Study, name: str) -> Kept:
    """Deletes a person: all rows and events, or none. Places are free again, and who is able is found once more.

    Raises:
        DataError: nobody has the name; or the database cannot be written without what was deleted from it.
    """
    try:
        with study.database.writing() as connection:
            person = people.named(connection, name)
            found = _kept(study, connection, person)
            with tables.unguarded(connection):
                _delete(connection, person)
            chain.append(connection, study.now(), "forgotten", {"person": person})
    finally:
        _scrub(study)  # of a name that is not there too: a deletion may have been killed before it came to this
    ability.rank(study)
    return found


def _kept(study: Study, connection: Connection, person: int) -> Kept:
    counts = {
        word: connection.execute(select(func.count()).select_from(table).where(mine)).scalar_one()
        for word, table, mine in _theirs(person)
    }
    copies = tuple(sorted(study.folder.glob(f"{FILE}.*")))
    return Kept(counts, tuple(_releases(connection, person)), copies)


def _theirs(person: int) -> Iterator[tuple[str, Table, ColumnElement[bool]]]:
    """The word, the table and which of its rows are of a person."""
    for table in TABLES:
        yield WORDS[table.name], table, table.c.person == person
    of_event = tables.log.c.body["person"].as_integer()
    yield EVENTS, tables.log, of_event == person


def _releases(connection: Connection, person: int) -> list[int]:
    """The numbers of the releases in which a judgement of the person may be counted."""
    annotation, release = tables.annotation, tables.release
    counted = (annotation.c.person == person) & (annotation.c.act == "answered") & (annotation.c.surplus == 0)
    counted &= tables.slot.c.purpose.in_(("judged", "review"))
    first = connection.execute(select(func.min(annotation.c.id)).join(tables.slot).where(counted)).scalar()
    if first is None:
        return []
    rows = connection.execute(select(release).where(release.c.watermark >= first).order_by(release.c.number))
    return [row.number for row in rows if person not in row.parameters["without"]]


def _rows(connection: Connection, table: Table, mine: ColumnElement[bool]) -> list[dict[str, Any]]:
    return [_shown(row) for row in connection.execute(select(table).where(mine).order_by(*table.primary_key))]


def _shown(row: Row[Any]) -> dict[str, Any]:
    """Without secrets."""
    return {
        name: datetime.fromtimestamp(value, UTC).isoformat() if name in TIMES and value is not None else value
        for name, value in row._asdict().items()
        if name not in SECRETS
    }


def _delete(connection: Connection, person: int) -> None:
    slot, release = tables.slot, tables.release
    connection.execute(update(slot).where(slot.c.person == person).values(state="free", person=None, until=None))
    for table in reversed(TABLES):
        if table is not slot:
            connection.execute(delete(table).where(table.c.person == person))
    connection.execute(delete(tables.person).where(tables.person.c.id == person))
    for row in connection.execute(select(release)).all():
        parameters = chain.without(row.parameters, person)
        connection.execute(update(release).where(release.c.number == row.number).values(parameters=parameters))
    chain.forget(connection, person)


def _scrub(study: Study) -> None:
    try:
        study.database.scrub(table.name for table in (*TABLES, tables.person, tables.release, tables.log))
    except (DatabaseError, DataError) as error:
        said = why(error) if isinstance(error, DatabaseError) else error
        raise DataError(
            f"{study.folder}: what was deleted may be left in free pages of the database: {said}; run this again"
        ) from error
