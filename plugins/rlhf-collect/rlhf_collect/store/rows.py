"""Reads the rows of a file: a prompt, its answers, and the known judgement of a gold or training item."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_collect.markup import LONGEST
from rlhf_plugins import DataError

PURPOSES = ("judged", "gold", "training")


@dataclass(frozen=True)
class Written:
    """An answer and who wrote it."""

    text: str
    origin: Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """A row: a prompt with its answers."""

    where: str
    prompt: str
    answers: tuple[Written, ...]
    domain: str = ""
    cluster: str = ""
    purpose: str = "judged"
    known: Any = None
    explanation: str = ""
    verify: Any = None  # a label that people see before they answer, to confirm or correct it


def read_rows(file: Path, left_out: Counter[str]) -> Iterator[Asked]:
    """The rows of a JSON lines file; those that nobody can judge are counted.

    A row has `prompt`, and `responses` (texts, or objects with `text` and whatever tells their origin) or
    `response_a` and `response_b`; it may have `domain`, `cluster`, `gold`, `purpose`, `explanation`, `verify`.

    Raises:
        DataError: the file cannot be read, or a row is no object with a prompt; the message has the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # splitlines would cut at U+2028, which JSON may hold
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and (row := _row(f"{file}:{number}", line, left_out)):
            yield row


def write_rows(file: Path, rows: Iterable[Asked]) -> int:
    """Writes rows as `read_rows` reads them; how many."""
    count = 0
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            known = {"gold": row.known, "purpose": row.purpose} if row.purpose != "judged" else {}
            named = {name: getattr(row, name) for name in ("domain", "cluster", "explanation") if getattr(row, name)}
            known |= {} if row.verify is None else {"verify": row.verify}
            responses = [{"text": one.text, **one.origin} for one in row.answers]
            count += 1
            out.write(json.dumps({"prompt": row.prompt, "responses": responses, **named, **known}) + "\n")
    return count


def _row(where: str, line: str, left_out: Counter[str]) -> Asked | None:
    try:
        fields = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str):
        raise DataError(f"{where}: should be an object with a text `prompt`")
    answers = _answers(where, fields)
    texts = [fields["prompt"], *(one.text for one in answers)]
    if not all(text.strip() for text in texts):
        left_out["without text"] += 1
        return None
    if max(map(len, texts)) > LONGEST:
        left_out[f"longer than {LONGEST} characters"] += 1
        return None
    purpose = fields.get("purpose", "gold" if "gold" in fields else "judged")
    if purpose not in PURPOSES or (purpose != "judged") != ("gold" in fields):
        raise DataError(f"{where}: purpose should be one of {', '.join(PURPOSES)}, with `gold` for the last two")
    more = {name: _text(where, name, fields.get(name, "")) for name in ("domain", "cluster", "explanation")}
    known, verify = fields.get("gold"), fields.get("verify")
    return Asked(where, fields["prompt"], answers, purpose=purpose, known=known, verify=verify, **more)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _answers(where: str, fields: Mapping[str, Any]) -> tuple[Written, ...]:
    given = fields.get("responses", [fields[name] for name in ("response_a", "response_b") if name in fields])
    if not isinstance(given, list):
        raise DataError(f"{where}: `responses` should be a list")
    return tuple(_written(where, one) for one in given)


def _written(where: str, one: Any) -> Written:
    if isinstance(one, str):
        return Written(one, {})
    if isinstance(one, dict) and isinstance(one.get("text"), str):
        return Written(one["text"], {name: value for name, value in one.items() if name != "text"})
    raise DataError(f"{where}: a response should be a text, or an object with a `text`")


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200 and name != "explanation":
        raise DataError(f"{where}: {name} should be a text of at most 200 characters")
    return value
