"""Which revision a study's tables are of. It needs no alembic, so that opening a study costs one query."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select

from rlhf_collect.store import tables

NEWEST = "5"  # the last revision in `migrations/versions`
UNWRITTEN = "1"  # the revision of studies that were made before revisions were written into them
version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def stamp(connection: Connection, revision: str = NEWEST) -> None:
    """Writes into a study without one which revision it is of."""
    version.create(connection)
    connection.execute(insert(version).values(version_num=revision))


def written(connection: Connection) -> bool:
    """Whether a study says its revision."""
    return inspect(connection).has_table(version.name)


def revision_of(connection: Connection) -> str:
    """The revision of a study's tables. Raises DatabaseError where the database holds no study."""
    connection.execute(select(tables.study.c.created)).one()
    return connection.execute(select(version.c.version_num)).scalar_one() if written(connection) else UNWRITTEN


def older(revision: str) -> bool:
    """Whether it comes before the newest one that is known here."""
    return revision.isdecimal() and int(revision) < int(NEWEST)


def refusal(folder: Path, revision: str) -> str:
    """Why a study of another revision is not opened, and what to do."""
    its = f"{folder}: its tables are of revision {revision}"
    if older(revision):
        return f"{its}, here {NEWEST} is read; run: rlhf collect migrate {folder}"
    return f"{its}, newer than {NEWEST}: install the rlhf-collect that made it"
