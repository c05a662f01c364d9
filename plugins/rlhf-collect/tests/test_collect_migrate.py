"""Older studies are brought to the tables of today, whole or not at all; newer ones are refused."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from rlhf_collect import migrate as migrating
from rlhf_collect import release as releases
from rlhf_collect.commands import collect
from rlhf_collect.migrate import migrate, upgrade
from rlhf_collect.store import chain, revisions, tables
from rlhf_collect.study import Study, open_study
from sqlalchemy import MetaData, Table, delete, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from studies import Browser, pair, prefers_good, study
from typer.testing import CliRunner

from rlhf_plugins import DataError

ADDED = {"study": {"schema": 1}}  # columns of revision 1 that are gone
NUMBERED = {"person", "slot", "annotation"}  # by the database, from 1


def rows_of(of: Study) -> dict[str, list[dict[str, Any]]]:
    with of.database.reading() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()]
            for table in tables.metadata.sorted_tables
        }


def aged(made: Study) -> Path:
    """The study's folder, with its rows in the tables of revision 1, which say nothing of revisions."""
    rows = rows_of(made)
    with made.database.writing() as connection:
        tables.metadata.drop_all(connection)
        revisions.version.drop(connection)
        upgrade(connection, "1")
        revisions.version.drop(connection)
        for name, found in rows.items():
            table = Table(name, MetaData(), autoload_with=connection)
            names = set(table.c.keys()) - ({"id"} if name in NUMBERED else set())
            kept = [{key: row[key] for key in row.keys() & names} | ADDED.get(name, {}) for row in found]
            if kept:
                connection.execute(insert(table), kept)
    made.close()
    return made.folder


def judged(folder: Path) -> Study:
    """A study with an item on which two people are divided."""
    made = study(folder, [pair(n) for n in range(4)] + [pair(9, purpose="gold", known="a")], votes=2)
    for name, good in (("Ada", 1), ("Ben", -1)):
        browser = Browser(made, name)
        browser.judge(choice=str(good * prefers_good(browser.shown())))
    return made


def test_an_older_study_is_migrated_by_a_command_and_goes_on(tmp_path: Path) -> None:
    made = judged(tmp_path)
    before, folder = rows_of(made), aged(made)
    with pytest.raises(DataError, match=f"of revision 1, here {revisions.NEWEST} is read; run: rlhf collect migrate"):
        open_study(folder)
    done = migrate(folder)
    assert (done.before, done.after) == ("1", revisions.NEWEST)
    after = open_study(folder)
    migrated = rows_of(after)
    assert [row["divided"] for row in migrated["slot"]] == [0] * 8 + [1]
    assert migrated["event"].pop()["what"] == "migrated"
    assert migrated == before
    after.now = made.now
    assert Browser(after, "Ada").work(prefers_good) == 3
    made = releases.make(after, releases.Parameters(test_fraction=0.0))
    assert (len(made.rows), made.left_out) == (3, {"undecided": 1})
    with after.database.reading() as connection:
        assert chain.first_broken(connection) is None
    assert migrate(folder).copy is None  # nothing is left to do


def test_a_migrated_study_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    migrate(aged(judged(tmp_path)))
    made = open_study(tmp_path / "study")
    with made.database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    rows = rows_of(made)
    for table in [table for table in tables.KEPT if rows[table.name]]:
        with pytest.raises(IntegrityError, match="is never changed"), made.database.writing() as connection:
            connection.execute(delete(table))


def test_the_file_is_copied_as_it_was_and_no_copy_is_overwritten(tmp_path: Path) -> None:
    folder = aged(judged(tmp_path))
    copy = migrate(folder).copy
    assert copy == folder / "study.db.1"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    query = "SELECT schema, (SELECT count(*) FROM annotation) FROM study"
    assert sqlite3.connect(copy).execute(query).fetchall() == [(1, 2)]
    (folder / "study.db").write_bytes(copy.read_bytes())
    with pytest.raises(DataError, match=r"study.db.1: is there already"):
        migrate(folder)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = aged(judged(tmp_path))

    def broken(connection: Any) -> None:
        connection.execute(text("ALTER TABLE study ADD COLUMN half INTEGER"))
        raise OperationalError("", None, Exception("database or disk is full"))

    monkeypatch.setattr(migrating, "upgrade", broken)
    with pytest.raises(DataError, match="cannot be migrated: database or disk is full; nothing was changed"):
        migrate(folder)
    columns = {row[1] for row in sqlite3.connect(folder / "study.db").execute("PRAGMA table_info(study)")}
    assert columns == {"schema", "created", "settings"}


def test_a_newer_study_is_refused(tmp_path: Path) -> None:
    made = study(tmp_path, [])
    with made.database.writing() as connection:
        connection.execute(revisions.version.update().values(version_num="99"))
    for opening in (open_study, migrate):
        with pytest.raises(DataError, match=r"of revision 99, newer than \d+: install the rlhf-collect that made it"):
            opening(made.folder)


def test_the_commands_say_how_to_migrate_and_do_it(tmp_path: Path) -> None:
    run, folder = CliRunner(), aged(judged(tmp_path))
    for name in ("report", "serve", "export"):
        assert f"run: rlhf collect migrate {folder}" in str(run.invoke(collect, [name, str(folder)]).exception)
    assert f"revision 1 to {revisions.NEWEST}; as it was: " in run.invoke(collect, ["migrate", str(folder)]).output
    assert f"revision {revisions.NEWEST} already" in run.invoke(collect, ["migrate", str(folder)]).output
    assert "log: whole" in run.invoke(collect, ["report", str(folder)]).output


def test_a_file_that_holds_no_study_is_not_migrated(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "study.db").execute("CREATE TABLE other (a INTEGER)")
    with pytest.raises(DataError, match="no such table: study"):
        migrate(tmp_path)
    assert [file.name for file in tmp_path.iterdir() if "study.db." in file.name] == []
