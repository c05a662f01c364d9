"""Opens the database of a study: one writer at a time, and a commit is on the disk when it returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

BUSY_SECONDS = 30  # for which a writer waits for one of another process


class Database:
    """Transactions on one SQLite file, in write-ahead mode with synchronous=FULL."""

    def __init__(self, file: Path) -> None:
        self.engine = _engine(file)
        self._turn = Lock()  # of this process's threads, so that they queue and do not poll the file

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database."""
        with self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: committed whole when the block ends, rolled back when it raises."""
        with self._turn, self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def _engine(file: Path) -> Engine:
    made = create_engine(f"sqlite:///{file}", connect_args={"timeout": BUSY_SECONDS}, pool_size=8, max_overflow=32)
    event.listen(made, "connect", _prepare)
    return made


def _prepare(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # `reading` and `writing` begin their transactions themselves
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-65536"):
        connection.execute(f"PRAGMA {setting}")
