"""Rows with one answer, or with none, become groups: conversations, prompts with a completion, and prompts alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import blank, extras, shown, text
from rlhf_plugins.data.messages import check_answer, with_tools
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.shapes import TALKS, prompt_of, with_system
from rlhf_plugins.data.sources import Columns
from rlhf_plugins.data.splits import Placed
from rlhf_plugins.data.turns import TOOLS, as_answer, as_messages
from rlhf_plugins.errors import DataError, known

ANSWERS = ("completion", "output", "response")
JUDGED = {"chosen", "rejected", "rejected_response", "responses", "response_a", "response_b", "winner", "completions"}
LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
PLAIN = Columns()


def read_answers(rows: Iterable[Row], dropped: Dropped, columns: Columns = PLAIN) -> Iterator[Placed]:
    """Groups of one response, which a row gives as the last turn of its conversation or beside its prompt.

    A conversation is `messages` or `conversations`; beside a prompt the response is `completion`, `output` or
    `response`. A `label` says whether it is desirable.

    Raises:
        DataError: a row has no response or several, or its last turn is not the assistant's.
    """
    for where, given in rows:
        fields = dict(given)
        prompt, response, shape = _answered(where, fields, columns)
        label = _label(where, fields.pop("label", None))
        if blank(prompt) or blank(response):
            dropped.add("empty prompt or response", where)
            continue
        dropped.note_shape(shape if label is None else f"{shape} and a label")
        yield where, Group(prompt, (response,), label=label, **extras(where, fields, columns))


def read_prompts(rows: Iterable[Row], dropped: Dropped, columns: Columns = PLAIN) -> Iterator[Placed]:
    """Groups without a response; all further columns are kept, for rewards that read them.

    Raises:
        DataError: a row has no prompt.
    """
    for where, given in rows:
        fields = dict(given)
        prompt, shape = prompt_of(where, fields, columns.prompt)
        if prompt is None:
            raise DataError(f"{where}: has no `prompt` {known('prompt', given)}")
        if blank(prompt):
            dropped.add("empty prompt", where)
            continue
        dropped.note_shape(f"prompts ({shape})")
        yield where, Group(prompt, **extras(where, fields, columns))


def is_answered(fields: Mapping[str, Any]) -> bool:
    """Whether a row with these columns is likely to have one answer."""
    if JUDGED & fields.keys():
        return False
    asked = not fields.keys().isdisjoint(("prompt", "instruction", "question"))
    return not fields.keys().isdisjoint(TALKS) or (asked and bool({"completion", "output"} & fields.keys()))


def is_prompt(fields: Mapping[str, Any]) -> bool:
    """Whether a row with these columns is likely to be a prompt, with what a reward reads."""
    return "prompt" in fields and not fields.keys() & {*JUDGED, *ANSWERS, *TALKS}


def _answered(where: str, fields: dict[str, Any], columns: Columns) -> tuple[Text, Text, str]:
    talks = [name for name in TALKS if isinstance(fields.get(name), list)]
    if talks and columns.prompt == "prompt" and not set(ANSWERS) & fields.keys():
        talk: Any = text(where, talks[0], fields.pop(talks[0]))
        fields.pop("prompt", None)  # of the conversation
        check_answer(where, talks[0], talk[-1:])
        if len(talk) < 2:
            raise DataError(f"{where}: {talks[0]} has no turn before the answer")
        asked = with_system(where, fields, talk[:-1])
        return with_tools(where, asked, fields.pop(TOOLS, None)), talk[-1:], f"{talks[0]}, the last turn as the answer"
    given = [name for name in ANSWERS if name in fields]
    if len(given) != 1:
        has = f"has {' and '.join(given)}" if given else f"has no answer {known('completion', fields)}"
        raise DataError(f"{where}: {has}; a row needs one of {', '.join(ANSWERS)}, or a conversation in {TALKS[0]}")
    response = text(where, given[0], fields.pop(given[0]))
    check_answer(where, given[0], response)
    prompt, shape = prompt_of(where, fields, columns.prompt)
    if prompt is None:
        raise DataError(f"{where}: has no `prompt` {known('prompt', fields)}")
    if not (isinstance(prompt, str) and isinstance(response, str)):
        prompt, response = as_messages(prompt), as_answer(response)
    return prompt, response, f"{shape} with {given[0]}"


def _label(where: str, value: Any) -> bool | None:
    if value is None or value == "":
        return None
    word = str(value).strip().lower()
    if word not in LABELS:
        raise DataError(f"{where}: label must be true or false, found {shown(value)}")
    return LABELS[word]
