"""Revision 3: labels that are shown before a person answers, and answers that verify one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "3", "2"


def upgrade() -> None:
    """Upgrades a study of revision 2, in which every suggestion was shown after the answer."""
    op.add_column("suggestion", sa.Column("before", sa.Integer, nullable=False, server_default="0"))
    op.add_column("annotation", sa.Column("verified", sa.Integer, nullable=False, server_default="0"))
