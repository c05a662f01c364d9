"""Prompts and responses as plain text, which principles and assistants read."""

from __future__ import annotations

from typing import Any

Text = str | list[dict[str, Any]]


def plain(text: Text) -> str:
    """Text as it is; of messages, each turn as `role: content`, and of a single assistant's turn its content alone."""
    if isinstance(text, str):
        return text
    if len(text) == 1 and text[0].get("role") == "assistant":
        return content(text[0])
    return "\n".join(f"{turn.get('role')}: {content(turn)}" for turn in text)


def content(turn: dict[str, Any]) -> str:
    """What a turn says; of several parts, those that are text."""
    found = turn.get("content") or ""
    if isinstance(found, str):
        return found
    return "\n".join(str(part.get("text", "")) for part in found if isinstance(part, dict))
