"""Revision 2: alembic's table says the revision; the column `schema`, which said it too, goes."""

from __future__ import annotations

from alembic import op

revision, down_revision = "2", "1"


def upgrade() -> None:
    """Upgrades a study of revision 1."""
    op.drop_column("study", "schema")
