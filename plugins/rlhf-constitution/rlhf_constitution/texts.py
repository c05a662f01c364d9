"""Prompts and responses as plain text, which principles and assistants read."""

from __future__ import annotations

import json
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
    """What a turn says, of several parts those that are text, and its calls of tools as JSON."""
    found = turn.get("content") or []
    said = (
        [found] if isinstance(found, str) else [str(part.get("text", "")) for part in found if isinstance(part, dict)]
    )
    calls = [json.dumps(turn["tool_calls"], ensure_ascii=False)] if turn.get("tool_calls") else []
    return "\n".join([*said, *calls])
