"""Brings an older study to the tables of this version, in one transaction; the file of SQLite is copied before."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from rlhf_collect.store import chain, revisions
from rlhf_collect.study import FILE, database_of, why
from rlhf_plugins import DataError

SCRIPTS = "rlhf_collect.store:migrations"


@dataclass(frozen=True)
class Migrated:
    """What was done; `before` is `after` where there was nothing to do."""

    before: str
    after: str
    copy: Path | None = None  # a copy of the file as it was; None where none was made


def migrate(folder: Path) -> Migrated:
    """Runs the revisions that the study lacks, all or none.

    Raises:
        DataError: the folder holds no study, or one of a newer version, or the database or its copy cannot be written.
    """
    with closing(database_of(folder)) as database:
        try:
            with database.writing() as connection:
                return _migrated(connection, folder)
        except DatabaseError as error:
            raise DataError(f"{folder}: cannot be migrated: {why(error)}; nothing was changed") from error


def _migrated(connection: Connection, folder: Path) -> Migrated:
    before = revisions.revision_of(connection)
    if before == revisions.NEWEST:
        return Migrated(before, before)
    if not revisions.older(before):
        raise DataError(revisions.refusal(folder, before))
    copy = _copied(folder / FILE, before) if connection.dialect.name == "sqlite" else None
    if not revisions.written(connection):
        revisions.stamp(connection, before)
    upgrade(connection)
    chain.append(connection, time.time(), "migrated", {"before": before, "after": revisions.NEWEST})
    return Migrated(before, revisions.NEWEST, copy)


def upgrade(connection: Connection, revision: str = revisions.NEWEST) -> None:
    """Runs the revisions up to this one, within the caller's transaction; on an empty database, all of them."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", SCRIPTS)
    config.set_main_option("path_separator", "os")
    command.upgrade(config, revision)


def _copied(file: Path, revision: str) -> Path:
    """A copy beside the file, named after its revision, which nobody but the owner reads."""
    copy = file.with_name(f"{file.name}.{revision}")
    try:
        copy.touch(0o600, exist_ok=False)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except FileExistsError:
        raise DataError(f"{copy}: is there already; move this copy away first") from None
    except (OSError, sqlite3.Error) as error:
        copy.unlink(missing_ok=True)
        raise DataError(f"{copy}: the study cannot be copied: {error}") from error
    return copy
