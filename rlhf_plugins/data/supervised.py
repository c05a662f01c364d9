"""Rows with one answer, or with none, become groups: conversations, prompts with a completion, and prompts alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import blank, extras, optional, required, shown, text
from rlhf_plugins.data.messages import check_answer
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.shapes import TALKS, as_named, opened, prompt_of, with_system_cells
from rlhf_plugins.data.sources import Columns, SupervisedColumns
from rlhf_plugins.data.splits import Placed
from rlhf_plugins.data.turns import as_answer, as_messages
from rlhf_plugins.errors import DataError, known

LABEL = "label"  # the rating that a label is for a reward model: 1 or 0
ANSWERS = ("completion", "output", "response")
JUDGED = {"chosen", "rejected", "rejected_response", "responses", "response_a", "response_b", "winner", "completions"}
LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def read_answers(
    rows: Iterable[Row],
    dropped: Dropped,
    columns: SupervisedColumns = SupervisedColumns(),  # noqa: B008
) -> Iterator[Placed]:
    """Groups of one response, which a row gives as the last turn of its conversation or beside its prompt.

    A conversation is `messages` or `conversations`; beside a prompt the response is `completion`, `output` or
    `response`. A `label` says whether it is desirable.

    Raises:
        DataError: a row has no response or several, its last turn is not the assistant's, or it has a prompt that is
            no turn of its conversation.
    """
    for where, given in with_system_cells(rows):
        fields = dict(given)
        prompt, response, shape = _answered(where, fields, columns)
        label = _label(where, str(columns.label), optional(where, "label", columns.label, given))
        if blank(prompt) or blank(response):
            dropped.add("empty prompt or response", where)
            continue
        dropped.note_shape(shape if label is None else f"{shape} and a label")
        more = extras(where, given, columns, given.keys() - fields.keys())
        rated = {} if label is None else {LABEL: (float(label),)}
        yield where, Group(prompt, (response,), label=label, ratings=rated, **more)


def read_prompts(
    rows: Iterable[Row],
    dropped: Dropped,
    columns: Columns = Columns(),  # noqa: B008
) -> Iterator[Placed]:
    """Groups without a response; all further columns are kept, for rewards that read them.

    Raises:
        DataError: a row has no prompt.
    """
    for where, given in with_system_cells(rows):
        fields = dict(given)
        prompt, shape = prompt_of(where, fields, columns.prompt)
        if prompt is None:
            raise DataError(f"{where}: has no `prompt` {known('prompt', given)}")
        if blank(prompt):
            dropped.add("empty prompt", where)
            continue
        dropped.note_shape(f"prompts ({shape})")
        yield where, Group(prompt, **extras(where, given, columns, given.keys() - fields.keys()))


def is_answered(fields: Mapping[str, Any]) -> bool:
    """Whether a row with these columns is likely to have one answer."""
    if JUDGED & fields.keys():
        return False
    asked = not fields.keys().isdisjoint(("prompt", "instruction", "question"))
    return not fields.keys().isdisjoint(TALKS) or (asked and bool({"completion", "output"} & fields.keys()))


def is_prompt(fields: Mapping[str, Any]) -> bool:
    """Whether a row with these columns is likely to be a prompt, with what a reward reads."""
    answered = fields.keys() & {*JUDGED, *ANSWERS, *TALKS} or any(name.startswith("response") for name in fields)
    return "prompt" in fields and not answered


def _answered(where: str, fields: dict[str, Any], columns: SupervisedColumns) -> tuple[Text, Text, str]:
    talks = [name for name in TALKS if isinstance(fields.get(name), list)]
    given = [name for name in ANSWERS if name in fields] if columns.response is None else [columns.response]
    if talks and not given and as_named(columns, ("prompt",)):
        return _last_turn(where, fields, talks[0])
    if len(given) != 1:
        has = f"has {' and '.join(given)}" if given else f"has no answer {known('completion', fields)}"
        raise DataError(f"{where}: {has}; a row needs one of {', '.join(ANSWERS)}, or a conversation in {TALKS[0]}")
    response = text(where, given[0], required(where, given[0], fields))
    fields.pop(given[0], None)
    check_answer(where, given[0], response)
    prompt, shape = prompt_of(where, fields, columns.prompt)
    if prompt is None:
        raise DataError(f"{where}: has no `prompt` {known('prompt', fields)}")
    if not (isinstance(prompt, str) and isinstance(response, str)):
        prompt, response = as_messages(prompt), as_answer(response)
    return prompt, response, f"{shape} with {given[0]}"


def _last_turn(where: str, fields: dict[str, Any], name: str) -> tuple[Text, Text, str]:
    talk: Any = text(where, name, fields.pop(name))
    check_answer(where, name, talk[-1:])
    if len(talk) < 2:
        raise DataError(f"{where}: {name} has no turn before the answer")
    said = fields.pop("prompt", None)  # beside a conversation a part of it, or nothing is known of its use
    if not (said in (None, "", []) or _part_of(where, talk[:-1], said)):
        raise DataError(f"{where}: prompt is no turn of {name}, whose last turn is the answer; leave one of them out")
    return opened(where, fields, talk[:-1]), talk[-1:], f"{name}, the last turn as the answer"


def _part_of(where: str, talk: Sequence[Mapping[str, Any]], prompt: Any) -> bool:
    """Whether a prompt is a turn of a conversation, or its first turns."""
    said = text(where, "prompt", prompt)
    if isinstance(said, str):
        return said.strip() in {str(message["content"]).strip() for message in talk}
    return list(talk[: len(said)]) == said


def _label(where: str, column: str, value: Any) -> bool | None:
    if value is None or value == "":
        return None
    word = str(value).strip().lower()
    if word not in LABELS:
        raise DataError(f"{where}: {column} must be true or false, found {shown(value)}")
    return LABELS[word]
