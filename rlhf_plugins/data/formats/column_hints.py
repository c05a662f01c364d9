"""Which columns of a row may be meant by those that it lacks, for the end of a message; nothing is read by a guess."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

PAIR = ("prompt", "chosen", "rejected")
CLOSE = 0.8  # how like a column's name one is that has a slip in it
LIKELY = {  # words in the names that people give to a column
    "prompt": {"prompt", "question", "instruction", "query", "input", "request", "problem", "post", "user"},
    "chosen": {"chosen", "good", "better", "best", "accepted", "preferred", "winner", "positive", "correct"},
    "rejected": {"rejected", "bad", "worse", "worst", "declined", "dispreferred", "loser", "negative", "incorrect"},
}


def as_columns(fields: Mapping[str, Any], names: Iterable[str] = PAIR) -> str:
    """The option `columns` that names what a row lacks, such as `columns: {chosen: good, rejected: bad}`.

    Args:
        fields: the fields of the row.
        names: options of `columns`; a row may do without a prompt.

    Returns:
        Empty where the row lacks nothing, or not all of it can be guessed.
    """
    meant = {name: _meant(name, fields) for name in names if name not in fields}
    if meant.get("prompt") == "" and len(meant) > 1:
        del meant["prompt"]
    if not meant or "" in meant.values() or len(set(meant.values())) < len(meant):
        return ""
    return f"columns: {{{', '.join(f'{name}: {column}' for name, column in meant.items())}}}"


def without_prompt(fields: Mapping[str, Any]) -> str:
    """What can be done with a row without a prompt, to follow the message that says so."""
    named = as_columns(fields, ["prompt"]) or "columns: {prompt: NAME}"
    return f"add a column `prompt`, or write `{named}` if it has another name"


def _meant(name: str, fields: Mapping[str, Any]) -> str:
    """The one column of text or messages that is likely to be the one of this name; empty where none or several are."""
    texts = [column for column, value in fields.items() if isinstance(value, str | list)]
    likely = [column for column in texts if LIKELY[name] & set(re.split(r"[\W_]+", column.lower()))]
    found = likely or get_close_matches(name, texts, n=1, cutoff=CLOSE)
    return found[0] if len(found) == 1 else ""
