"""The tables of a study. Content, annotations and events are never changed: triggers refuse it.

A change of the tables needs a revision in `migrations/versions`, which brings older studies to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import (
    DDL,
    JSON,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
)

metadata = MetaData()

study = Table(
    "study",
    metadata,
    Column("created", Float, nullable=False),
    Column("settings", JSON, nullable=False),
)

prompt = Table(
    "prompt",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("text", Text, nullable=False),
    Column("html", Text, nullable=False),
    Column("domain", Text, nullable=False),
    Column("cluster", Text, nullable=False),  # prompts of a cluster are never in two splits
)

answer = Table(
    "answer",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("prompt", ForeignKey("prompt.id"), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),  # of the prompt's number and the text
    Column("text", Text, nullable=False),
    Column("html", Text, nullable=False),
    Column("origin", JSON, nullable=False),  # who wrote it and how; no page shows it
)

item = Table(
    "item",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("prompt", ForeignKey("prompt.id"), nullable=False),
    Column("answers", JSON, nullable=False),  # ids; a judgement counts them in this order
    Column("purpose", String(10), nullable=False),  # judged, gold or training
    Column("lengths", JSON, nullable=False),  # characters of the answers
    Column("words", Integer, nullable=False),  # of the prompt and the answers
)

Index("item_purpose", item.c.purpose, item.c.id)

# Read by the check of an answer alone: no query that makes a page joins it.
gold = Table(
    "gold",
    metadata,
    Column("item", ForeignKey("item.id"), primary_key=True),
    Column("value", JSON, nullable=False),
    Column("explanation", Text, nullable=False),
)

person = Table(
    "person",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("role", String(10), nullable=False),  # annotator, reviewer or lead
    Column("state", String(10), nullable=False),  # active or paused
    Column("reason", Text, nullable=False, server_default=""),  # why it is paused
    Column("since", Integer, nullable=False, server_default="0"),  # the annotation after which flags are looked for
    Column("language", String(8), nullable=False, server_default="en"),
    Column("able", Integer, nullable=False, server_default="0"),  # 1: among the half who are right most often
    Column("created", Float, nullable=False),
    sqlite_autoincrement=True,  # no number is given twice, though people are deleted
)

slot = Table(
    "slot",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("item", ForeignKey("item.id"), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("purpose", String(10), nullable=False),
    Column("divided", Integer, nullable=False, server_default="0"),  # 1: a further vote, where people are divided
    Column("priority", Float, nullable=False),  # the lowest is given out first
    Column("arm", String(10), nullable=False, server_default="random"),  # what gave it the priority: random or chosen
    Column("sides", JSON, nullable=False),  # places of the answers as they are shown, drawn at random
    Column("state", String(10), nullable=False),  # free, leased or done
    Column("person", ForeignKey("person.id")),
    Column("until", Float),
    UniqueConstraint("item", "ordinal"),
)
Index("slot_queue", slot.c.purpose, slot.c.state, slot.c.divided, slot.c.priority, slot.c.id)
Index("slot_lease", slot.c.state, slot.c.until)
Index("slot_person", slot.c.person, slot.c.state)

lease = Table(
    "lease",
    metadata,
    Column("token", String(43), primary_key=True),
    Column("slot", ForeignKey("slot.id"), nullable=False),
    Column("person", ForeignKey("person.id"), nullable=False),
    Column("started", Float, nullable=False),
)

annotation = Table(
    "annotation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("slot", ForeignKey("slot.id"), nullable=False),
    Column("item", ForeignKey("item.id"), nullable=False),
    Column("person", ForeignKey("person.id"), nullable=False),
    Column("version", Integer, nullable=False),  # the highest of an item and person counts
    Column("key", String(64), nullable=False),  # of the submission: the same one twice is one annotation
    Column("act", String(10), nullable=False),  # answered, skipped or flagged
    Column("value", JSON),  # of an answer, in the item's order of answers
    Column("sides", JSON, nullable=False),  # as the person saw them
    Column("confidence", Integer),
    Column("reason", Text, nullable=False),
    Column("seconds", Float, nullable=False),  # since the item was given out
    Column("guideline", Integer, nullable=False),
    Column("surplus", Integer, nullable=False),  # 1: too late, the slot was somebody else's by then
    Column("verified", Integer, nullable=False, server_default="0"),  # 1: confirms or corrects a label that was shown
    Column("at", Float, nullable=False),
    UniqueConstraint("item", "person", "version"),
    UniqueConstraint("person", "key"),
    sqlite_autoincrement=True,  # releases and pauses are up to a number
)
Index("annotation_person", annotation.c.person, annotation.c.id)

checked = Table(  # the first answers to gold and training items
    "checked",
    metadata,
    Column("annotation", ForeignKey("annotation.id"), primary_key=True),
    Column("person", ForeignKey("person.id"), nullable=False),
    Column("item", ForeignKey("item.id"), nullable=False),
    Column("purpose", String(10), nullable=False),
    Column("right", Integer, nullable=False),
)
Index("checked_person", checked.c.person, checked.c.purpose)

suggestion = Table(  # a label of a model or a file; never a vote
    "suggestion",
    metadata,
    Column("item", ForeignKey("item.id"), primary_key=True),
    Column("value", JSON, nullable=False),
    Column("origin", JSON, nullable=False),
    Column("before", Integer, nullable=False, server_default="0"),  # 1: shown before a person answers, to verify it
)

hint = Table(  # first answers to items with a suggestion
    "hint",
    metadata,
    Column("annotation", ForeignKey("annotation.id"), primary_key=True),
    Column("item", ForeignKey("item.id"), nullable=False),
    Column("person", ForeignKey("person.id"), nullable=False),
    Column("arm", String(10), nullable=False),  # shown, or control: not shown
)

guideline = Table(
    "guideline",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("text", Text, nullable=False),
    Column("html", Text, nullable=False),
    Column("at", Float, nullable=False),
)

ticket = Table(  # a link that lets a person in once
    "ticket",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("person", ForeignKey("person.id"), nullable=False),
    Column("until", Float, nullable=False),
)

session = Table(
    "session",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("person", ForeignKey("person.id"), nullable=False),
    Column("csrf", String(43), nullable=False),
    Column("until", Float, nullable=False),
)

release = Table(
    "release",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("watermark", Integer, nullable=False),  # the last annotation that counts
    Column("parameters", JSON, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("at", Float, nullable=False),
)

log = Table(
    "event",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("what", String(20), nullable=False),
    Column("body", JSON, nullable=False),
    Column("digest", String(64), nullable=False),  # of this event and the digest before it
)

KEPT = (prompt, answer, item, gold, lease, annotation, checked, suggestion, hint, guideline, release, log)
_REFUSE = DDL(
    "CREATE OR REPLACE FUNCTION never_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " RAISE integrity_constraint_violation USING MESSAGE = TG_TABLE_NAME || ' is never changed'; END $$"
)
event.listen(metadata, "before_create", _REFUSE.execute_if(dialect="postgresql"))
for _table in KEPT:
    for _deed in ("UPDATE", "DELETE"):
        _rule = DDL(
            f"CREATE TRIGGER {_table.name}_{_deed.lower()} BEFORE {_deed} ON {_table.name}"
            f" BEGIN SELECT RAISE(ABORT, '{_table.name} is never changed'); END"
        )
        event.listen(_table, "after_create", _rule.execute_if(dialect="sqlite"))
    _rule = DDL(
        f"CREATE TRIGGER {_table.name}_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {_table.name}"
        " FOR EACH STATEMENT EXECUTE FUNCTION never_changed()"
    )
    event.listen(_table, "after_create", _rule.execute_if(dialect="postgresql"))


@contextmanager
def unguarded(connection: Connection) -> Iterator[None]:
    """Lets a transaction delete a person; the triggers are back when the block ends, or when it is rolled back."""
    if connection.dialect.name == "sqlite":
        rules = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
        off, on = [f"DROP TRIGGER {rule.name}" for rule in rules], [rule.sql for rule in rules]
    else:
        off, on = (
            [f"ALTER TABLE {table.name} {deed} TRIGGER {table.name}_kept" for table in KEPT]
            for deed in ("DISABLE", "ENABLE")
        )
    for statement in off:
        connection.exec_driver_sql(statement)
    yield
    for statement in on:
        connection.exec_driver_sql(statement)
