"""Revision 5: no number of a person or of an annotation is given twice, though people can be deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "5", "4"


def upgrade() -> None:
    """Upgrades a study of revision 4: makes both tables again in SQLite; PostgreSQL gives no number twice as it is."""
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        op.execute("PRAGMA defer_foreign_keys=ON")  # until the rows are back
        for name in ("person", "annotation"):
            _made_new(connection, name)


def _made_new(connection: sa.Connection, name: str) -> None:
    table = sa.Table(name, sa.MetaData(), autoload_with=connection, sqlite_autoincrement=True)
    rules = f"SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = '{name}'"
    triggers = connection.exec_driver_sql(rules).scalars().all()
    op.execute(f"CREATE TEMPORARY TABLE aside AS SELECT * FROM {name}")
    table.drop(connection)
    table.create(connection)
    op.execute(f"INSERT INTO {name} SELECT * FROM aside")
    op.execute("DROP TABLE aside")
    for trigger in triggers:
        connection.exec_driver_sql(trigger)
