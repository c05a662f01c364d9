"""Conversations of a data set become messages of `role` and `content`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlhf_plugins.contract.rows import LEARNED, Text
from rlhf_plugins.data.turns import CALLS, TOOLS, without_nulls
from rlhf_plugins.errors import DataError, nearest

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "environment")
SPEAKERS = {  # of `from` and `value`
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
CALL = "function_call"  # of `from`, where others have an assistant's message with calls
KEPT = (CALLS, "name", "tool_call_id", "reasoning_content", "thinking", TOOLS)  # fields that templates write
FLAGS = (LEARNED, "weight", "loss")  # of a message: whether SFT learns it, in the words of several trainers
NEEDS = "needs a text `role` and a text `content`"


def messages(where: str, column: str, value: Any) -> list[dict[str, Any]]:
    """The messages of a list or of one object: `role` and `content`, or `from` and `value`, and the fields in `KEPT`.

    An assistant's message that says whether it is to be learned, in one of `FLAGS`, has that as the field `LEARNED`.

    Raises:
        DataError: one has no text, a role that no template knows, or is to be learned and not the assistant's.
    """
    return [_message(where, column, each) for each in ([value] if isinstance(value, Mapping) else value)]


def with_tools(where: str, prompt: Text, tools: Any) -> Text:
    """The prompt with the tools that may be called, which its first message carries. Raises DataError for a text."""
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise DataError(f"{where}: {TOOLS} must be a list of objects, and is not JSON: {error}") from error
    if not tools:
        return prompt
    if not isinstance(tools, list):
        raise DataError(f"{where}: {TOOLS} must be a list of objects, found {type(tools).__name__}")
    if isinstance(prompt, str) or not prompt:
        raise DataError(f"{where}: has {TOOLS}, which only the chat template of a conversation writes, and is text")
    return [{**prompt[0], TOOLS: without_nulls(tools)}, *prompt[1:]]


def check_answer(where: str, column: str, response: Text, imitated: bool = False) -> None:
    """Raises DataError where a response is not the assistant's, or is not to be learned and is not just imitated."""
    if not imitated and any(is_unlearned(message) for message in response if not isinstance(message, str)):
        raise DataError(f"{where}: {column} has a message that is not to be learned, as only rows of one answer may")
    if not isinstance(response, str) and response:
        wrong = next((m["role"] for m in (response[0], response[-1]) if m["role"] != "assistant"), None)
        if wrong is not None:
            raise DataError(f"{where}: {column} begins or ends with a turn of the role {wrong!r}, not the assistant's")


def is_unlearned(message: Mapping[str, Any]) -> bool:
    """Whether a message says that it is not to be learned."""
    return message.get(LEARNED) is False


def whole(where: str, column: str, text: str) -> str:
    """The text. JSON can spell half of a surrogate pair (`\\ud83d`), which no tokenizer takes: raises DataError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {column} is not Unicode text: half a character at position {error.start}") from error
    return text


def _message(where: str, column: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise DataError(f"{where}: every message of {column} {NEEDS}")
    if "role" not in given and isinstance(given.get("from"), str):
        speaker = given["from"]
        role, content = SPEAKERS.get(speaker.lower(), speaker), given.get("value")
    else:
        role, content = given.get("role"), given.get("content")
    kept = {name: without_nulls(given[name]) for name in KEPT if given.get(name) not in (None, "", [], {})}
    if isinstance(content, list):
        content = _joined(where, column, content)
    if content is None and CALLS in kept:
        content = ""
    if not isinstance(role, str) or not isinstance(content, str):
        raise DataError(f"{where}: every message of {column} {NEEDS}")
    if role == CALL:
        raise DataError(f"{where}: {column} has a {CALL!r}; write it as an assistant's message with {CALLS!r}")
    if role not in ROLES:
        raise DataError(f"{where}: {column} has a message of the role {role!r} {nearest(role.lower(), ROLES)}")
    return {"role": role, "content": whole(where, column, content), **kept, **_learned(where, column, role, given)}


def _learned(where: str, column: str, role: str, given: Mapping[str, Any]) -> dict[str, bool]:
    """Whether a message is to be learned, where one of `FLAGS` says it of the assistant's."""
    said = {name: given[name] for name in FLAGS if given.get(name) is not None}
    for name, value in said.items():
        if value not in (0, 1):
            raise DataError(f"{where}: {column} has a message of {name} {value!r}; only 0, 1, true and false are read")
    if len(values := set(map(bool, said.values()))) > 1:
        raise DataError(f"{where}: {column} has a message whose {' and '.join(said)} say different things")
    if True in values and role != "assistant":
        words = f"has a message of the role {role!r} to be learned ({next(iter(said))})"
        raise DataError(f"{where}: {column} {words}, and only the assistant's are")
    return {LEARNED: values.pop()} if values and role == "assistant" else {}


def _joined(where: str, column: str, parts: list[Any]) -> str:
    """The content of parts that all are text. Raises DataError for others, such as an image."""
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise DataError(f"{where}: {column} has a part of the type {kind!r}, and only text is read")
    return "".join(part["text"] for part in parts)
