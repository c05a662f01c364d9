"""Revision 4: who is able, and which places are of items on which people are divided."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "4", "3"
QUEUE = ["purpose", "state", "divided", "priority", "id"]


def upgrade() -> None:
    """Upgrades a study of revision 3: places beyond the votes that every item gets become those of divided items."""
    op.add_column("person", sa.Column("able", sa.Integer, nullable=False, server_default="0"))
    op.add_column("slot", sa.Column("divided", sa.Integer, nullable=False, server_default="0"))
    settings = (
        op.get_bind().execute(sa.select(sa.column("settings", sa.JSON)).select_from(sa.table("study"))).scalar_one()
    )
    slot = sa.table("slot", *map(sa.column, ("purpose", "ordinal", "divided")))
    further = (slot.c.purpose == "judged") & (slot.c.ordinal >= settings["votes"])
    op.execute(slot.update().where(further).values(divided=1))
    op.drop_index("slot_queue", "slot")
    op.create_index("slot_queue", "slot", QUEUE)
