"""Revision 1: the tables of the first version, whose studies say `schema` 1 and hold no revision."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "1", None

KEPT = (
    *("prompt", "answer", "item", "gold", "lease", "annotation", "checked", "suggestion", "hint"),
    *("guideline", "release", "event"),
)


def upgrade() -> None:
    """On an empty database."""
    _content()
    _people()
    _work()
    _checks()
    _records()
    _guards()


def _content() -> None:
    op.create_table(
        "study",
        sa.Column("schema", sa.Integer, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
    )
    op.create_table(
        "prompt",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("html", sa.Text, nullable=False),
        sa.Column("domain", sa.Text, nullable=False),
        sa.Column("cluster", sa.Text, nullable=False),
    )
    op.create_table(
        "answer",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("prompt", sa.Integer, sa.ForeignKey("prompt.id"), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("html", sa.Text, nullable=False),
        sa.Column("origin", sa.JSON, nullable=False),
    )
    op.create_table(
        "item",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("prompt", sa.Integer, sa.ForeignKey("prompt.id"), nullable=False),
        sa.Column("answers", sa.JSON, nullable=False),
        sa.Column("purpose", sa.String(10), nullable=False),
        sa.Column("lengths", sa.JSON, nullable=False),
        sa.Column("words", sa.Integer, nullable=False),
    )
    op.create_index("item_purpose", "item", ["purpose", "id"])
    op.create_table(
        "gold",
        sa.Column("item", sa.Integer, sa.ForeignKey("item.id"), primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("explanation", sa.Text, nullable=False),
    )


def _people() -> None:
    op.create_table(
        "person",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("since", sa.Integer, nullable=False, server_default="0"),
        sa.Column("language", sa.String(8), nullable=False, server_default="en"),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_table(
        "ticket",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("person", sa.Integer, sa.ForeignKey("person.id"), nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )
    op.create_table(
        "session",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("person", sa.Integer, sa.ForeignKey("person.id"), nullable=False),
        sa.Column("csrf", sa.String(43), nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )


def _work() -> None:
    op.create_table(
        "slot",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("item", sa.Integer, sa.ForeignKey("item.id"), nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("purpose", sa.String(10), nullable=False),
        sa.Column("priority", sa.Float, nullable=False),
        sa.Column("arm", sa.String(10), nullable=False, server_default="random"),
        sa.Column("sides", sa.JSON, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("person", sa.Integer, sa.ForeignKey("person.id")),
        sa.Column("until", sa.Float),
        sa.UniqueConstraint("item", "ordinal"),
    )
    op.create_index("slot_queue", "slot", ["purpose", "state", "priority", "id"])
    op.create_index("slot_lease", "slot", ["state", "until"])
    op.create_index("slot_person", "slot", ["person", "state"])
    op.create_table(
        "lease",
        sa.Column("token", sa.String(43), primary_key=True),
        sa.Column("slot", sa.Integer, sa.ForeignKey("slot.id"), nullable=False),
        sa.Column("person", sa.Integer, sa.ForeignKey("person.id"), nullable=False),
        sa.Column("started", sa.Float, nullable=False),
    )
    op.create_table(
        "annotation",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("slot", sa.Integer, sa.ForeignKey("slot.id"), nullable=False),
        sa.Column("item", sa.Integer, sa.ForeignKey("item.id"), nullable=False),
        sa.Column("person", sa.Integer, sa.ForeignKey("person.id"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("act", sa.String(10), nullable=False),
        sa.Column("value", sa.JSON),
        sa.Column("sides", sa.JSON, nullable=False),
        sa.Column("confidence", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("guideline", sa.Integer, nullable=False),
        sa.Column("surplus", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("item", "person", "version"),
        sa.UniqueConstraint("person", "key"),
    )
    op.create_index("annotation_person", "annotation", ["person", "id"])


def _checks() -> None:
    op.create_table(
        "checked",
        sa.Column("annotation", sa.Integer, sa.ForeignKey("annotation.id"), primary_key=True),
        sa.Column("person", sa.Integer, sa.ForeignKey("person.id"), nullable=False),
        sa.Column("item", sa.Integer, sa.ForeignKey("item.id"), nullable=False),
        sa.Column("purpose", sa.String(10), nullable=False),
        sa.Column("right", sa.Integer, nullable=False),
    )
    op.create_index("checked_person", "checked", ["person", "purpose"])
    op.create_table(
        "suggestion",
        sa.Column("item", sa.Integer, sa.ForeignKey("item.id"), primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("origin", sa.JSON, nullable=False),
    )
    op.create_table(
        "hint",
        sa.Column("annotation", sa.Integer, sa.ForeignKey("annotation.id"), primary_key=True),
        sa.Column("item", sa.Integer, sa.ForeignKey("item.id"), nullable=False),
        sa.Column("person", sa.Integer, sa.ForeignKey("person.id"), nullable=False),
        sa.Column("arm", sa.String(10), nullable=False),
    )


def _records() -> None:
    op.create_table(
        "guideline",
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("html", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "release",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("watermark", sa.Integer, nullable=False),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "event",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("what", sa.String(20), nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )


def _guards() -> None:
    """Triggers that refuse changes of what is kept."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE OR REPLACE FUNCTION never_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE integrity_constraint_violation USING MESSAGE = TG_TABLE_NAME || ' is never changed'; END $$"
        )
        for name in KEPT:
            op.execute(
                f"CREATE TRIGGER {name}_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {name}"
                " FOR EACH STATEMENT EXECUTE FUNCTION never_changed()"
            )
        return
    for name in KEPT:
        for deed in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {name}_{deed.lower()} BEFORE {deed} ON {name}"
                f" BEGIN SELECT RAISE(ABORT, '{name} is never changed'); END"
            )
