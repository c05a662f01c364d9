"""Changes that make a response no better, whoever reads it: padding, repetition, words out of order. Texts alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Change = Callable[[str, "np.random.Generator"], str]

FILLERS = ("well, let me think.", "people say many things.", "that is how it often goes.")
SENTENCE = re.compile(r"(?<=[.!?])\s+")


def padded(text: str, rng: np.random.Generator) -> str:
    """With a sentence that says nothing, at a random place."""
    parts = _sentences(text)
    parts.insert(int(rng.integers(len(parts) + 1)), FILLERS[int(rng.integers(len(FILLERS)))])
    return " ".join(parts)


def repeated(text: str, rng: np.random.Generator) -> str:
    """With one sentence said twice, the second time at the end."""
    parts = _sentences(text)
    return " ".join([*parts, parts[int(rng.integers(len(parts)))]]) if parts else text


def swapped(text: str, rng: np.random.Generator) -> str:
    """With two neighbouring words in the other order."""
    words = text.split()
    if len(words) < 2:
        return text
    place = int(rng.integers(len(words) - 1))
    words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)


CHANGES: Mapping[str, Change] = {"padded": padded, "repeated": repeated, "swapped": swapped}


def _sentences(text: str) -> list[str]:
    return [one for one in SENTENCE.split(text.strip()) if one]
