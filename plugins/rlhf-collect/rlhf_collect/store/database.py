"""Opens the database of a study: one writer at a time, and a commit is on the disk when it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from rlhf_plugins import DataError

BUSY_SECONDS = 30  # for which a writer waits for one of another process
# What a transaction begins with, to read one state of the database, and to be its only writer.
READING = {"sqlite": "BEGIN", "postgresql": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"}
WRITING = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "LOCK TABLE study IN SHARE ROW EXCLUSIVE MODE"}
POOL: dict[str, Any] = {"pool_size": 8, "max_overflow": 32, "hide_parameters": True}  # no secret or name in an error
DISK_FULL = "53100"  # PostgreSQL's SQLSTATE


class Database:
    """Transactions on an SQLite file in write-ahead mode with synchronous=FULL, or on a database of PostgreSQL.

    Args:
        where: the file, or an address `postgresql://USER@HOST/NAME`.

    Raises:
        DataError: the address cannot be read or is of another kind of server, or psycopg is not installed.
    """

    def __init__(self, where: Path | str) -> None:
        self.engine = _sqlite(where) if isinstance(where, Path) else _postgresql(where)
        self._turn = Lock()  # of this process's threads, so that they queue and do not poll the file

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database."""
        with self.engine.connect() as connection:
            connection.exec_driver_sql(READING[self.engine.dialect.name])
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: committed whole when the block ends, rolled back when it raises."""
        with self._turn, self.engine.connect() as connection:
            connection.exec_driver_sql(WRITING[self.engine.dialect.name])
            yield connection
            connection.commit()

    def scrub(self, names: Iterable[str]) -> None:
        """Writes the file of SQLite, or these tables of PostgreSQL, without what was deleted: it stays in free pages.

        Raises DataError where somebody reads for so long that SQLite's write-ahead log cannot be emptied.
        """
        with self._turn, self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.exec_driver_sql(f"VACUUM FULL {', '.join(names)}")
                return
            connection.exec_driver_sql("VACUUM")
            if connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar():
                raise DataError("the write-ahead log is being read")

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def full(error: DBAPIError) -> bool:
    """Whether the disk of the database has no room."""
    return "is full" in str(error.orig) or getattr(error.orig, "sqlstate", "") == DISK_FULL


def _sqlite(file: Path) -> Engine:
    made = create_engine(f"sqlite:///{file}", connect_args={"timeout": BUSY_SECONDS}, **POOL)
    event.listen(made, "connect", _prepare_sqlite)
    return made


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # `reading` and `writing` begin their transactions themselves
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-65536"):
        connection.execute(f"PRAGMA {setting}")


def _postgresql(address: str) -> Engine:
    try:
        url = make_url(address)
    except ArgumentError:
        raise DataError("the address of the database should be postgresql://USER@HOST/NAME") from None
    if url.get_backend_name() != "postgresql":
        raise DataError(f"no study can be kept in {url.drivername}: take postgresql://, or a folder without an address")
    try:
        made = create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, **POOL)
    except ModuleNotFoundError:
        raise DataError("PostgreSQL needs psycopg: pip install 'rlhf-collect[postgresql]'") from None
    event.listen(made, "connect", _prepare_postgresql)
    return made


def _prepare_postgresql(connection: Any, record: Any) -> None:
    """A commit waits for the disk, whatever the server's default is; a writer waits for another as long as SQLite's."""
    name = "synchronous_commit"
    connection.execute(f"SELECT set_config('{name}', 'on', false) WHERE current_setting('{name}') = 'off'")
    connection.execute(f"SELECT set_config('lock_timeout', '{BUSY_SECONDS}s', false)")
    connection.commit()
