"""One row's fields, checked: texts, numbers and the columns that any format may have."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import fsum
from typing import Any

from rlhf_plugins.contract.rows import Origin, Text
from rlhf_plugins.data.messages import check_answer, messages, whole
from rlhf_plugins.data.sources import Columns
from rlhf_plugins.data.turns import as_response, said
from rlhf_plugins.data.values import SPOKEN, spelled
from rlhf_plugins.errors import DataError, nearest

STEP = re.compile(r"([^.\[\]]+)|(\[\d*\])")  # of a path
PLACE = re.compile(r"(?P<source>.*)(?::(?P<line>\d+)|\[(?P<index>\d+)\])", re.DOTALL)
INNER = {"text"}  # options of `Columns` that name a field of an element, not a column


def required(where: str, column: str, fields: Mapping[str, Any]) -> Any:
    """The field of that name, or at that path: `info.post`, `answers[0].text`, and `answers[].text` of all of them.

    Raises:
        DataError: there is none; with the known names and the nearest.
    """
    if not holds(fields, column):
        raise DataError(f"{where}: lacks the column {column!r} {nearest(column, fields)}")
    return at(fields, column)


def holds(fields: Mapping[str, Any], column: str) -> bool:
    """Whether there is a field of that name or at that path, also one that is null."""
    if column in fields or at(fields, column) is not None:
        return True
    above, dot, name = column.rpartition(".")
    inside = at(fields, above) if dot else None
    return isinstance(inside, Mapping) and name in inside


def at(fields: Mapping[str, Any], column: str) -> Any:
    """The field of that name or at that path; None where there is none."""
    if column in fields:
        return fields[column]
    value: Any = fields if "." in column or "[" in column else None
    for step in STEP.findall(column):
        value = _step(value, *step)
    return value


def _step(value: Any, name: str, index: str) -> Any:
    """What a step of a path leads to; None where it leads nowhere. `[]` goes on with every element of a list."""
    if isinstance(value, _Each):
        found = _Each(_step(each, name, index) for each in value)
        return found if any(each is not None for each in found) else None
    if name:
        return value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, list):
        return None
    if index == "[]":
        return _Each(value)
    place = int(index.strip("[]"))
    return value[place] if place < len(value) else None


class _Each(list[Any]):
    """The elements of a list on the way of a path."""


def optional(where: str, name: str, column: str | None, fields: Mapping[str, Any]) -> Any:
    """The field of that column, or None where it has the default `name` and is not there. Raises DataError."""
    if column is None or (column == name and column not in fields):
        return None
    return required(where, column, fields)


def text(where: str, column: str, value: Any) -> Text:
    """Text, or messages as `messages` reads them. Raises DataError."""
    if isinstance(value, str):
        return whole(where, column, value)
    if not isinstance(value, list) and not (isinstance(value, Mapping) and SPOKEN & value.keys()):
        raise DataError(f"{where}: {column} must be text or a list of messages, found {form(value)}")
    return messages(where, column, value)


def asked(where: str, column: str, value: Any) -> Text:
    """A prompt, as `text` reads it. Raises DataError also for a text that spells messages."""
    found = text(where, column, value)
    listed = spelled(found) if isinstance(found, str) else None
    if isinstance(listed, list) and listed and all(isinstance(one, Mapping) and SPOKEN & one.keys() for one in listed):
        raise DataError(f"{where}: {column} is a text that spells messages; write the list of them itself")
    return found


def texts(where: str, fields: Mapping[str, Any], columns: tuple[str, ...]) -> tuple[Text, ...]:
    """The texts of several columns, all of one form. Raises DataError."""
    found = tuple(text(where, column, required(where, column, fields)) for column in columns)
    for column, value in zip(columns[1:], found[1:], strict=True):
        if form(value) != form(found[0]):
            raise DataError(f"{where}: {columns[0]} is {form(found[0])}, {column} is {form(value)}")
    return found


def responses(where: str, column: str, values: Any, inner: str, prompt: Text) -> tuple[Text, ...]:
    """The texts of a list whose elements are text, messages, or objects with the field `inner`. Raises DataError."""
    if not isinstance(values, list) or not values:
        raise DataError(f"{where}: {column} must be a list of responses, found {shown(values)}")
    found = []
    for number, value in enumerate(values):
        name = f"{column}[{number}]"
        if isinstance(value, dict) and not SPOKEN & value.keys():
            value = required(f"{where}: {name}", inner, value)
        found.append(as_response(prompt, text(where, name, value)))
        check_answer(where, name, found[-1])
        if form(found[-1]) != form(prompt):
            raise DataError(f"{where}: the prompt is {form(prompt)}, {name} is {form(found[-1])}")
    return tuple(found)


def number(where: str, column: str, value: Any, least: float = -math.inf) -> float | None:
    """A finite number, also as text; None where the field is null or empty. Raises DataError."""
    if value is None or value == "":  # an empty field of a CSV file
        return None
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"{where}: {column} must be a finite number, found {shown(value)}")
    if found < least:
        raise DataError(f"{where}: {column} must be at least {least:g}, found {found:g}")
    return found


def probability(where: str, column: str, value: Any) -> float | None:
    """A number from 0 to 1; None where the field is null or empty. Raises DataError."""
    found = number(where, column, value, least=0.0)
    if found is not None and found > 1:
        raise DataError(f"{where}: {column} must be at most 1, found {found:g}")
    return found


def annotator(where: str, name: str, column: str | None, fields: Mapping[str, Any]) -> str | None:
    """Who judges, as text; None where it is unknown. Raises DataError."""
    found = optional(where, name, column, fields)
    return None if found is None or found == "" else whole(where, str(column), str(found))


def place(where: str, column: str, value: Any, count: int) -> int:
    """The number of one of `count` responses. Raises DataError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
        raise DataError(f"{where}: {column} names the response {shown(value)}; there are {count}, numbered from 0")
    return value


def extras(where: str, fields: Mapping[str, Any], columns: Columns, read: Iterable[str] = ()) -> dict[str, Any]:
    """`weight`, `topic`, `difficulty`, `origin` and the further `columns` of a row as a `Group` takes them.

    Args:
        where: the row's place, as `read_rows` gives it.
        fields: the fields of the row.
        columns: what the format's columns are called.
        read: columns that the format reads beside those.

    Raises:
        DataError: a column is missing or has a value of the wrong type.
    """
    found = {name: optional(where, name, getattr(columns, name), fields) for name in ("weight", "topic", "difficulty")}
    weight = number(where, str(columns.weight), found["weight"], least=0.0)
    return {
        "weight": 1.0 if weight is None else weight,
        "topic": _topic(where, str(columns.topic), found["topic"]),
        "difficulty": number(where, str(columns.difficulty), found["difficulty"]),
        "columns": _further(where, fields, columns, read),
        "origin": origin(where),
    }


def averaged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The `extras` of several rows as one: mean weight and difficulty, the first topic, and the columns that agree."""
    hard = [row["difficulty"] for row in rows if row["difficulty"] is not None]
    return {
        "weight": fsum(row["weight"] for row in rows) / len(rows),
        "topic": rows[0]["topic"],
        "difficulty": fsum(hard) / len(hard) if hard else None,
        "columns": agreed([row["columns"] for row in rows]),
        "origin": joined([row["origin"] for row in rows]),
    }


def agreed(columns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns that have the same value in every row."""
    first, *others = columns
    return {k: v for k, v in first.items() if all(k in other and other[k] == v for other in others)}


def origin(where: str) -> Origin:
    """The origin of a row from its place, `file:12` (from 1) or `file[11]` (from 0)."""
    found = PLACE.fullmatch(where)
    if found is None:
        return Origin(sys.intern(where))
    line, index = found["line"], found["index"]
    return Origin(sys.intern(found["source"]), int(line) if line else int(index) + 1)


def joined(origins: Sequence[Origin | None]) -> Origin | None:
    """The origin of what is made of several rows: the first row's, with all of them as its parents."""
    known = [one for one in origins if one is not None]
    if len(known) < 2:
        return known[0] if known else None
    parents = [parent for one in known for parent in (one.parents or (str(one),))]
    return replace(known[0], parents=tuple(dict.fromkeys(parents)))


def _further(where: str, fields: Mapping[str, Any], columns: Columns, read: Iterable[str]) -> dict[str, Any]:
    """The columns that the format does not read, or those of them that are to be kept."""
    if columns.keep is not None:
        found = {name: required(where, name, fields) for name in columns.keep}
    else:
        names = {value for name, value in vars(columns).items() if isinstance(value, str) and name not in INNER}
        found = {name: value for name, value in fields.items() if name not in names and name not in read}
    for name, value in found.items():
        _unicode(where, name, [name, value])
    return found


def _unicode(where: str, column: str, value: Any) -> None:
    """Raises DataError where a text in a value has half a character, which no file and no tokenizer takes."""
    if isinstance(value, str) and not value.isascii():
        whole(where, repr(column), value)
    for each in (*value, *value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        if isinstance(each, str | list | Mapping):  # of a vector there may be thousands of numbers
            _unicode(where, column, each)


def _topic(where: str, column: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"{where}: {column} must be text or a whole number, found {form(value)}")
    return whole(where, column, str(value))


def blank(text: Text) -> bool:
    """Whether there is nothing to read."""
    return not text.strip() if isinstance(text, str) else not any(said(m).strip() for m in text)


def form(value: Any) -> str:
    """What a value is, in a word."""
    words = {"str": "text", "list": "messages", "NoneType": "null"}
    return words.get(type(value).__name__, type(value).__name__)


def shown(value: Any) -> str:
    """A value as a message shows it, cut short."""
    return repr(str(value)[:40])


def key(*texts: Text) -> str:
    """Equal for equal texts or messages."""
    return json.dumps(texts)


def content(text: Text) -> str:
    """What a reader sees of a text or of messages."""
    return text if isinstance(text, str) else "\n".join(map(said, text))
