"""Preference rows become groups. It knows TRL's columns and what makes a row useless, not where rows come from."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rlhf_plugins.data.rows import Row, read_rows
from rlhf_plugins.errors import DataError, known
from rlhf_plugins.interfaces import Group, PreferenceData, Text


def load_preferences(
    source: str, split: str, test_source: str | None, test_fraction: float, seed: int
) -> PreferenceData:
    """Pairs with TRL's columns `chosen`, `rejected` and, optionally, `prompt` and `margin`; text or messages.

    Rows that teach nothing (equal or empty responses, repeated rows, a pair that another row orders the other way)
    are left out and counted, and so are training rows whose prompt stands in `test_source`. Without a
    `test_source`, `test_fraction` of the prompts is held out by hash, so that no prompt stands in both splits and
    the order of rows does not matter.

    Raises:
        DataError: a source cannot be read, lacks a column, or holds a value of the wrong type; or no row is useful.
    """
    dropped: Counter[str] = Counter()
    groups = _useful(source, split, dropped)
    if test_source is not None:
        test = _useful(test_source, "test", dropped)
        asked = {_key(g.prompt) for g in test}
        train = tuple(g for g in groups if _key(g.prompt) not in asked)
        dropped["prompt stands in the test source too"] += len(groups) - len(train)
    else:
        held_out = _held_out(groups, test_fraction, seed)
        train = tuple(g for g in groups if _key(g.prompt) not in held_out)
        test = tuple(g for g in groups if _key(g.prompt) in held_out)
    if not train:
        raise DataError(f"{source}: every prompt stands in {test_source} too, so none is left to train on")
    prompts = {"train": _unique(g.prompt for g in train), "test": _unique(g.prompt for g in test)}
    return PreferenceData(train, test, prompts, dict(+dropped))


def _useful(source: str, split: str, dropped: Counter[str]) -> tuple[Group, ...]:
    left_out: Counter[str] = Counter()
    groups = tuple(_distinct(list(_groups(read_rows(source, split), left_out)), left_out))
    if not groups:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(f"{source}: no row is useful ({reasons})")
    dropped.update(left_out)
    return groups


def _distinct(groups: Sequence[Group], dropped: Counter[str]) -> Iterator[Group]:
    orders = {_key(g.prompt, *g.responses) for g in groups}
    seen: set[str] = set()
    for group in groups:
        key = _key(group.prompt, *group.responses)
        if _key(group.prompt, *reversed(group.responses)) in orders:
            dropped["contradicted by another row"] += 1
        elif key in seen:
            dropped["repeated row"] += 1
        else:
            seen.add(key)
            yield group


def _groups(rows: Iterable[Row], dropped: Counter[str]) -> Iterator[Group]:
    form: str | None = None
    for where, fields in rows:
        group = _group(where, fields, dropped)
        if group is None:
            continue
        form = form or _form(group.prompt)
        if _form(group.prompt) != form:
            raise DataError(f"{where}: is {_form(group.prompt)}, the rows before it are {form}")
        yield group


def _group(where: str, fields: dict[str, Any], dropped: Counter[str]) -> Group | None:
    for column in ("chosen", "rejected"):
        if column not in fields:
            raise DataError(f"{where}: lacks the column {column!r} {known(column, fields)}")
    chosen, rejected = (_checked(where, c, fields[c]) for c in ("chosen", "rejected"))
    prompt = _checked(where, "prompt", fields["prompt"]) if "prompt" in fields else None
    margin = _margin(where, fields.get("margin"))
    if _form(chosen) != _form(rejected):
        raise DataError(f"{where}: chosen is {_form(chosen)}, rejected is {_form(rejected)}")
    if prompt is not None and _form(prompt) != _form(chosen):
        raise DataError(f"{where}: prompt is {_form(prompt)}, chosen is {_form(chosen)}")
    if chosen == rejected:
        dropped["chosen equals rejected"] += 1
        return None
    if prompt is None and not _blank(chosen) and not _blank(rejected):
        prompt, chosen, rejected = _split_prompt(where, fields, chosen, rejected)
    if prompt is None or any(map(_blank, (prompt, chosen, rejected))):
        dropped["empty prompt or response"] += 1
        return None
    return Group(prompt, (chosen, rejected), (0, 1), margin)


def _checked(where: str, column: str, value: Any) -> Text:
    if isinstance(value, str):
        return _whole(where, column, value)
    if not isinstance(value, list):
        raise DataError(f"{where}: {column} must be text or a list of messages, found {_form(value)}")
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise DataError(f"{where}: every message of {column} needs a text `role` and a text `content`")
    return [{k: _whole(where, column, m[k]) for k in ("role", "content")} for m in value]


def _whole(where: str, column: str, text: str) -> str:
    """JSON can spell half of a surrogate pair (`\\ud83d`), which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {column} is not Unicode text: half a character at position {error.start}") from error
    return text


def _margin(where: str, value: Any) -> float | None:
    if value is None or value == "":  # an empty field of a CSV file
        return None
    try:
        margin = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        margin = math.nan
    if not math.isfinite(margin):
        raise DataError(f"{where}: margin must be a finite number, found {str(value)[:40]!r}")
    return margin


def _split_prompt(where: str, fields: dict[str, Any], chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """The implicit prompt: what chosen and rejected share at their start, in whole messages or whole words.

    As with TRL a space before the first different word belongs to the responses; a line break belongs to the prompt.
    """
    pairs = zip(chosen, rejected, strict=False)
    length = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    if isinstance(chosen, str):
        length = max(chosen.rfind(" ", 0, length), chosen.rfind("\n", 0, length) + 1)
    elif length == min(len(chosen), len(rejected)):
        length -= 1
    if length <= 0:
        lacks = f"has no `prompt` {known('prompt', fields)}"
        raise DataError(f"{where}: {lacks}, and chosen and rejected share no beginning that could be one")
    return chosen[:length], chosen[length:], rejected[length:]


def _blank(text: Text) -> bool:
    return not text.strip() if isinstance(text, str) else not any(m["content"].strip() for m in text)


def _form(value: Any) -> str:
    words = {"str": "text", "list": "messages", "NoneType": "null"}
    return words.get(type(value).__name__, type(value).__name__)


def _key(*texts: Text) -> str:
    return json.dumps(texts)


def _held_out(groups: Sequence[Group], fraction: float, seed: int) -> set[str]:
    """The prompts with the smallest hashes: two if the fraction is less, which a mean needs, but never all."""
    prompts = sorted({_key(g.prompt) for g in groups}, key=lambda key: _hash(key, seed))
    count = max(round(fraction * len(prompts)), min(2, len(prompts) // 2))
    return set(prompts[: min(count, len(prompts) - 1)])


def _hash(key: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()


def _unique(prompts: Iterable[Text]) -> tuple[Text, ...]:
    return tuple({_key(prompt): prompt for prompt in prompts}.values())
