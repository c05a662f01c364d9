"""Rows with one answer, or with none, become groups: conversations, prompts with a completion, and prompts alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import blank, extras, optional, required, shown, text
from rlhf_plugins.data.formats.column_hints import without_prompt
from rlhf_plugins.data.formats.listed import HELPSTEER, SCORES, is_list
from rlhf_plugins.data.formats.shapes import as_named, opened, prompt_of, talks_in, with_system_cells
from rlhf_plugins.data.messages import check_answer, is_unlearned
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.sources import Columns, SupervisedColumns
from rlhf_plugins.data.splits import Placed
from rlhf_plugins.data.turns import QUESTIONS, TALKS, as_answer, as_messages
from rlhf_plugins.data.values import all_texts
from rlhf_plugins.errors import DataError, nearest

LABEL = "label"  # the rating that a label is for a reward model: 1 or 0
ANSWERS = ("completion", "output", "response")
JUDGED = {
    *("chosen", "rejected", "chosen_response", "rejected_response", "responses", "response_a", "response_b", "winner"),
    "completions",
}
GOOD = ("true", "1", "1.0", "up", "thumbs up", "thumbs_up", "\N{THUMBS UP SIGN}", "desirable")
BAD = ("false", "0", "0.0", "down", "thumbs down", "thumbs_down", "\N{THUMBS DOWN SIGN}", "undesirable")
LABELS = {**dict.fromkeys(GOOD, True), **dict.fromkeys(BAD, False)}
NO_RATINGS = ("prompt", "response", "weight", "difficulty", "id", "index", *QUESTIONS, *TALKS)  # numbers or not
THUMBS = ("thumbs", "thumbs_up")  # columns of a label of that name


def read_answers(
    rows: Iterable[Row],
    dropped: Dropped,
    columns: SupervisedColumns = SupervisedColumns(),  # noqa: B008
) -> Iterator[Placed]:
    """Groups of one response, which a row gives as the last turn of its conversation or beside its prompt.

    A conversation is `messages` or `conversations`; beside a prompt the response is `completion`, `output` or
    `response`. A `label`, or a column `thumbs` or `thumbs_up` in its place, says whether it is desirable.

    Raises:
        DataError: a row has no response or several, its last turn is not the assistant's, or it has a prompt that is
            no turn of its conversation.
    """
    for where, given in with_system_cells(rows):
        with dropped.row(where):
            if (group := _group(where, given, dropped, columns)) is not None:
                yield where, group


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
        with dropped.row(where):
            if (group := _prompt(where, given, dropped, columns)) is not None:
                yield where, group


def _group(where: str, given: Mapping[str, Any], dropped: Dropped, columns: SupervisedColumns) -> Group | None:
    fields = dict(given)
    prompt, response, shape = _answered(where, fields, columns)
    column = _label_column(columns, given)
    label = _label(where, str(column), None if column is None else optional(where, "label", column, given))
    fields.pop(str(column), None)
    if not isinstance(response, str) and response and is_unlearned(response[-1]):
        dropped.add("no turn that is to be learned", where)
        return None
    if blank(prompt) or blank(response):
        dropped.add("empty prompt or response", where)
        return None
    dropped.note_shape(shape if label is None else f"{shape} and a label")
    more = extras(where, given, columns, given.keys() - fields.keys())
    rated = {} if label is None else {LABEL: (float(label),)}
    return Group(prompt, (response,), label=label, ratings=rated, **more)


def _prompt(where: str, given: Mapping[str, Any], dropped: Dropped, columns: Columns) -> Group | None:
    fields = dict(given)
    prompt, shape = prompt_of(where, fields, columns.prompt)
    if prompt is None:
        raise DataError(f"{where}: has no `prompt` {nearest('prompt', given)}; {without_prompt(given)}")
    if blank(prompt):
        dropped.add("empty prompt", where)
        return None
    dropped.note_shape(f"prompts ({shape})")
    return Group(prompt, **extras(where, given, columns, given.keys() - fields.keys()))


def is_answered(fields: Mapping[str, Any]) -> bool:
    """Whether a row with these columns is likely to have one answer."""
    if JUDGED & fields.keys() or is_list(fields):
        return False
    asked = not fields.keys().isdisjoint(("prompt", *QUESTIONS))
    beside = {"completion", "output"} & fields.keys() or ("response" in fields and not _may_be_rated(fields))
    return _ends_with_answer(fields) or (asked and bool(beside))


def is_prompt(fields: Mapping[str, Any]) -> bool:
    """Whether a row with these columns is likely to be a prompt, with what a reward reads."""
    answered = fields.keys() & {*JUDGED, *ANSWERS} or any(name.startswith("response") for name in fields)
    talk = next((fields[name] for name in talks_in(fields)), None)
    asked = "prompt" in fields if talk is None else not _ends_with_answer(fields)
    return asked and not answered and not is_list(fields)


def _ends_with_answer(fields: Mapping[str, Any]) -> bool:
    """Whether a row has a conversation whose last turn is not a user's."""
    for name in dict.fromkeys((*fields.keys() & set(TALKS), *talks_in(fields))):
        talk = fields[name]
        last = talk[-1] if isinstance(talk, list) and talk else None
        speaker = (last.get("role") or last.get("from")) if isinstance(last, Mapping) else None
        if str(speaker).lower() not in ("user", "human"):
            return True
    return False


def _may_be_rated(fields: Mapping[str, Any]) -> bool:
    """Whether a column may be a rating: one called so, and where there is no label any that may hold a number."""
    if any(fields[name] is None or _is_number(fields[name]) for name in (*SCORES, *HELPSTEER) if name in fields):
        return True
    if not fields.keys().isdisjoint((LABEL, *THUMBS)):
        return False
    values = (value for name, value in fields.items() if name not in NO_RATINGS)
    return any(_is_number(value) or isinstance(value, Mapping | list) for value in values)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _answered(where: str, fields: dict[str, Any], columns: SupervisedColumns) -> tuple[Text, Text, str]:
    talks = talks_in(fields)
    given = [name for name in ANSWERS if name in fields] if columns.response is None else [columns.response]
    if talks and not given and as_named(columns, ("prompt",)):
        return _last_turn(where, fields, talks[0])
    if len(given) != 1:
        has = f"has {' and '.join(given)}" if given else f"has no answer {nearest('completion', fields)}"
        raise DataError(f"{where}: {has}; a row needs one of {', '.join(ANSWERS)}, or a conversation in {TALKS[0]}")
    value = required(where, given[0], fields)
    if all_texts(value):
        raise DataError(f"{where}: {_several(given[0], len(value))}")
    response = text(where, given[0], value)
    fields.pop(given[0], None)
    check_answer(where, given[0], response, imitated=True)
    prompt, shape = prompt_of(where, fields, columns.prompt)
    if prompt is None:
        raise DataError(f"{where}: has no `prompt` {nearest('prompt', fields)}; {without_prompt(fields)}")
    if not (isinstance(prompt, str) and isinstance(response, str)):
        prompt, response = as_messages(prompt), as_answer(response)
    return prompt, response, f"{shape} with {given[0]}"


def _several(column: str, count: int) -> str:
    """The message that a column holds a list of texts, and how two of them are read as a pair."""
    pair = f'`columns: {{chosen: "{column}[0]", rejected: "{column}[1]"}}` with the format preference'
    better = f"; where the first is the better one, read pairs by {pair}" if count == 2 else ""
    return f"{column} is a list of {count} texts, and one answer is imitated{better}"


def _last_turn(where: str, fields: dict[str, Any], name: str) -> tuple[Text, Text, str]:
    talk: Any = text(where, name, fields.pop(name))
    check_answer(where, name, talk[-1:], imitated=True)
    learned = [place for place, turn in enumerate(talk) if turn["role"] == "assistant" and not is_unlearned(turn)]
    last = "the last turn" if not learned or learned[-1] == len(talk) - 1 else "the last turn that is to be learned"
    talk = talk[: learned[-1] + 1] if learned else talk  # what follows teaches nothing
    if len(talk) < 2:
        raise DataError(f"{where}: {name} has no turn before the answer")
    said = fields.pop("prompt", None)  # beside a conversation a part of it, or nothing is known of its use
    if not (said in (None, "", []) or _part_of(where, talk[:-1], said)):
        raise DataError(f"{where}: prompt is no turn of {name}, whose last turn is the answer; leave one of them out")
    return opened(where, fields, talk[:-1]), talk[-1:], f"{name}, {last} as the answer"


def _part_of(where: str, talk: Sequence[Mapping[str, Any]], prompt: Any) -> bool:
    """Whether a prompt is a turn of a conversation, or its first turns."""
    said = text(where, "prompt", prompt)
    if isinstance(said, str):
        return said.strip() in {str(message["content"]).strip() for message in talk}
    return list(talk[: len(said)]) == said


def _label_column(columns: SupervisedColumns, fields: Mapping[str, Any]) -> str | None:
    """The column of the label, or the only one of `THUMBS` where the recipe names none and `label` is not there."""
    named = [name for name in THUMBS if name in fields]
    usual = as_named(columns, ("label",)) and columns.label not in fields
    return named[0] if usual and len(named) == 1 else columns.label


def _label(where: str, column: str, value: Any) -> bool | None:
    if value is None or value == "":
        return None
    word = str(value).strip().lower()
    if word not in LABELS:
        raise DataError(f"{where}: {column} must be true or false, or thumbs up or down, found {shown(value)}")
    return LABELS[word]
