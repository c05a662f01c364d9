"""A study: a folder with a database, or with the address of one. Makes one, opens one, puts rows into it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import insert, inspect, select
from sqlalchemy.exc import DatabaseError

from rlhf_collect.kinds.base import Kind
from rlhf_collect.kinds.every import kind_of
from rlhf_collect.markup import html
from rlhf_collect.settings import Settings
from rlhf_collect.store import chain, revisions, tables
from rlhf_collect.store.content import Content
from rlhf_collect.store.database import Database
from rlhf_collect.store.rows import Asked
from rlhf_plugins import DataError

FILE, ADDRESS = "study.db", "study.url"  # SQLite's file; the file with the address of a database on a server
GUIDELINES = "Choose the answer that serves the person who asked better. Choose a tie where you see no difference."


@dataclass
class Study:
    """An open study. `now` is the clock, in seconds since 1970."""

    folder: Path
    settings: Settings
    database: Database
    now: Callable[[], float] = time.time

    @property
    def kind(self) -> Kind:
        """What people are asked."""
        return kind_of(self.settings.kind, self.settings.dimensions)

    def add(self, rows: Iterable[Asked]) -> tuple[Counter[str], Counter[str]]:
        """Adds rows in one transaction: what was added, by purpose, and what was left out, by reason."""
        with self.database.writing() as connection:
            content = Content(connection, self.kind, self.settings)
            content.add(rows)
            counts = {"added": dict(content.added), "left_out": dict(content.left_out)}
            chain.append(connection, self.now(), "imported", counts)
        return content.added, content.left_out

    def guide(self, text: str) -> int:
        """A new version of the guidelines; returns its number, which every later annotation holds."""
        with self.database.writing() as connection:
            last = connection.execute(select(tables.guideline.c.version).order_by(-tables.guideline.c.version)).scalar()
            version = (last or 0) + 1
            values = {"version": version, "text": text, "html": html(text), "at": self.now()}
            connection.execute(insert(tables.guideline).values(values))
            chain.append(connection, self.now(), "guided", {"version": version, "text": chain.digest(text)})
        return version

    def close(self) -> None:
        """Closes the database."""
        self.database.close()


def new_study(folder: Path, settings: Settings, guidelines: str = GUIDELINES) -> Study:
    """Makes the folder and an empty study in it, or in the empty database that a `study.url` in the folder names.

    Raises:
        DataError: there is a study already, or the database cannot be used.
    """
    kind_of(settings.kind, settings.dimensions)
    refuse_held(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _kept(folder).touch()
    _kept(folder).chmod(0o600)  # it names people, or holds a password
    study = Study(folder, settings, _database(folder))
    _make_tables(study)
    with study.database.writing() as connection:
        revisions.stamp(connection)
        connection.execute(insert(tables.study).values(created=study.now(), settings=settings.record()))
        chain.append(connection, study.now(), "made", settings.record())
    study.guide(guidelines)
    return study


def refuse_held(folder: Path) -> None:
    """Raises DataError where the folder holds a study's file already."""
    if (folder / FILE).exists():
        raise DataError(f"{folder}: holds a study already")


def open_study(folder: Path) -> Study:
    """Raises DataError where the folder holds no study, or one of another revision; it says how to migrate an older."""
    database = database_of(folder := Path(folder))
    try:
        with database.reading() as connection:
            settings = connection.execute(select(tables.study.c.settings)).scalar_one()
            revision = revisions.revision_of(connection)
    except DatabaseError as error:
        raise DataError(f"{_kept(folder)}: is no study's database: {why(error)}") from error
    if revision != revisions.NEWEST:
        raise DataError(revisions.refusal(folder, revision))
    return Study(folder, Settings.of(settings), database)


def database_of(folder: Path) -> Database:
    """The database of the study in the folder. Raises DataError where there is none."""
    if not holds_study(folder):
        raise DataError(f"{folder}: holds no study; make one with: rlhf collect new {folder} --prompts FILE")
    return _database(folder)


def holds_study(folder: Path) -> bool:
    """Whether the folder has a study's file, or the address of its database."""
    return _kept(folder).is_file()


def _kept(folder: Path) -> Path:
    """The file of a study's database, or that of its address."""
    return folder / ADDRESS if (folder / ADDRESS).is_file() else folder / FILE


def _database(folder: Path) -> Database:
    kept = _kept(folder)
    return Database(kept if kept.name == FILE else kept.read_text(encoding="utf-8").strip())


def _make_tables(study: Study) -> None:
    """Raises DataError where the database cannot be reached or has a study's tables already."""
    engine = study.database.engine
    try:
        if inspect(engine).has_table(tables.study.name):
            raise DataError(f"{_kept(study.folder)}: the database holds a study already; give this one another")
        tables.metadata.create_all(engine)
    except DatabaseError as error:
        raise DataError(f"{_kept(study.folder)}: the database cannot be used: {why(error)}") from error


def why(error: DatabaseError) -> str:
    """The first line of what the database says."""
    return str(error.orig).strip().partition("\n")[0]
