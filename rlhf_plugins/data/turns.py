"""Messages, and text in their place: the fields that carry tools, and what a reader sees. It checks nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Text

TALKS, TALK = ("messages", "conversations"), "conversation"  # columns of conversations, and of questions
PAIRED = (("chosen_response", "rejected_response"), ("response", "rejected_response"))  # in the place of TRL's columns
QUESTIONS = ("question", "instruction", "query")
AS_MESSAGES = "`as_messages: true` beside the format makes messages of text"  # what helps where one needs the other
TOOLS, CALLS = "tools", "tool_calls"  # fields of the first message of a prompt, and of any message


def as_messages(prompt: Text) -> list[dict[str, Any]]:
    """A text as what a user says, messages as they are."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def as_answer(response: Text) -> list[dict[str, Any]]:
    """A text as what the assistant says, messages as they are."""
    return [{"role": "assistant", "content": response}] if isinstance(response, str) else response


def as_response(prompt: Text, response: Text) -> Text:
    """A response in the form of its prompt: to messages, a text becomes what the assistant says."""
    return response if isinstance(prompt, str) else as_answer(response)


def other_side(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as the user sees them: who asks answers, and who answers asks. The system's messages are left out."""
    roles = {"user": "assistant", "assistant": "user"}
    return [{"role": roles[m["role"]], "content": said(m)} for m in messages if m["role"] in roles]


def said(message: Mapping[str, Any]) -> str:
    """What a reader sees of a message: its content, its calls of tools as JSON, and the type of an image."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(str(part.get("text", f"[{part.get('type')}]")) for part in content)
    calls = json.dumps(message[CALLS], ensure_ascii=False) if message.get(CALLS) else ""
    return "\n".join(filter(None, (str(content), calls)))


def without_nulls(value: Any) -> Any:
    """Without the fields that a table adds to objects that lack them."""
    if isinstance(value, Mapping):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def as_text(text: Text) -> str:
    """Text unchanged, messages as `role: content` lines; a single message as its content alone."""
    if isinstance(text, str):
        return text
    return said(text[0]) if len(text) == 1 else "\n".join(f"{m['role']}: {said(m)}" for m in text)
