"""Numbers of a prompt by which one without a question in it is known."""

from __future__ import annotations

import re

LINK = re.compile(r"(?:https?://|www\.)\S+")
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")  # a character of Chinese, or a word
SEQUENCE = 3  # words


def words(text: str) -> list[str]:
    """Its words without case, and without links; each Chinese or Japanese character is one."""
    return WORD.findall(LINK.sub(" ", text.casefold()))


def letters(text: str) -> float:
    """The share of letters and digits among the characters that are no space; 0 of an empty text."""
    seen = [character for character in LINK.sub(" ", text) if not character.isspace()]
    return sum(map(str.isalnum, seen)) / len(seen) if seen else 0.0


def repeated(text: str) -> float:
    """The share of its sequences of 3 words that occurred before in it; 0 of a text with fewer than 3 words."""
    found = words(text)
    sequences = [tuple(found[i : i + SEQUENCE]) for i in range(len(found) - SEQUENCE + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0
