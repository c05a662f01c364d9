"""A study: a folder with a database. Makes one, opens one, puts rows into it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import insert, select
from sqlalchemy.exc import DatabaseError

from rlhf_collect.kinds.base import Kind
from rlhf_collect.kinds.every import kind_of
from rlhf_collect.markup import html
from rlhf_collect.settings import Settings
from rlhf_collect.store import chain, tables
from rlhf_collect.store.content import Content
from rlhf_collect.store.database import Database
from rlhf_collect.store.rows import Asked
from rlhf_plugins import DataError

FILE = "study.db"
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
    """Makes the folder and an empty study in it. Raises DataError where there is one."""
    kind_of(settings.kind, settings.dimensions)
    file = folder / FILE
    if file.exists():
        raise DataError(f"{folder}: holds a study already")
    folder.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)  # it names people
    study = Study(folder, settings, Database(file))
    tables.metadata.create_all(study.database.engine)
    with study.database.writing() as connection:
        values = {"schema": tables.SCHEMA, "created": study.now(), "settings": settings.record()}
        connection.execute(insert(tables.study).values(values))
        chain.append(connection, study.now(), "made", settings.record())
    study.guide(guidelines)
    return study


def open_study(folder: Path) -> Study:
    """Raises DataError where the folder holds no study, or one of another version."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise DataError(f"{folder}: holds no study; make one with: rlhf collect new {folder} --prompts FILE")
    database = Database(file)
    try:
        with database.reading() as connection:
            found = connection.execute(select(tables.study)).one()
    except DatabaseError as error:
        raise DataError(f"{file}: is no study's database: {error.orig}") from error
    if found.schema != tables.SCHEMA:
        raise DataError(
            f"{folder}: was made by another version of rlhf-collect: its tables are version {found.schema}, "
            f"here they are {tables.SCHEMA}"
        )
    return Study(Path(folder), Settings.of(found.settings), database)
