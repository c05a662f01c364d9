"""Rows of one prompt, or of one conversation, are not independent: one of each is drawn."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from typing import Any, TypeVar

import numpy as np

Row = TypeVar("Row")


def conversation(prompt: Any) -> Hashable:
    """What the prompts of one conversation share: its messages up to the first of the user; of a text, the text."""
    if not isinstance(prompt, list):
        return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
    roles = [message.get("role") if isinstance(message, dict) else None for message in prompt]
    opening = prompt[: roles.index("user") + 1] if "user" in roles else prompt
    return json.dumps(opening, sort_keys=True)


def one_each(rows: Iterable[tuple[Any, Row]], seed: int = 0) -> list[tuple[Any, Row]]:
    """Draws one row (prompt, anything) of each conversation at random; conversations keep their order."""
    rng, found = np.random.default_rng(seed), dict[Hashable, list[tuple[Any, Row]]]()
    for prompt, row in rows:
        found.setdefault(conversation(prompt), []).append((prompt, row))
    return [own[int(rng.integers(len(own)))] for own in found.values()]
