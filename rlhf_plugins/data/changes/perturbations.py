"""Makes worse responses of good ones: cut short, with a wrong number or name, out of order, of two parts.

Each answers the changed text and what was done to it, or None where the text has nothing to change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+")  # noqa: RUF001
NUMBER = re.compile(r"(?<![\w.,])\d{1,15}(?:\.\d{1,6})?(?![\w]|[.,]\d)")
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+\b")  # a word with a capital inside a sentence
FEWEST = 4  # words of a text that can be cut short


@dataclass(frozen=True)
class Others:
    """What the other rows give: the names in them, and their responses."""

    names: Sequence[str]
    responses: Sequence[str]


Made = tuple[str, str] | None  # the changed text, and what was done to it
Perturbation = Callable[[str, Others, np.random.Generator], Made]


def sentences(text: str) -> list[str]:
    """Its sentences, by their final marks and by lines."""
    return [part.strip() for part in SENTENCE.split(text) if part.strip()]


def names(text: str) -> list[str]:
    """The words that begin with a capital inside a sentence."""
    return NAME.findall(text)


def truncated(text: str, others: Others, rng: np.random.Generator) -> Made:
    """Without its last words: from a fifth to four fifths of them stay."""
    words = list(re.finditer(r"\S+", text))
    if len(words) < FEWEST:
        return None
    count = int(rng.integers(max(1, len(words) // 5), max(2, len(words) * 4 // 5 + 1)))
    return text[: words[count - 1].end()], f"{count} of {len(words)} words"


def wrong_number(text: str, others: Others, rng: np.random.Generator) -> Made:
    """The text with one number changed, by at most half of it or 3, with as many decimals; it stays at 0 or above."""
    found = list(NUMBER.finditer(text))
    if not found:
        return None
    one = found[rng.integers(len(found))]
    old, decimals = one.group(), len(one.group().partition(".")[2])
    unit = 10**-decimals
    steps = int(rng.integers(1, max(3, int(float(old) / unit / 2)) + 1)) * (-1 if rng.random() < 0.5 else 1)
    value = float(old) + steps * unit
    new = f"{value if value >= 0 else float(old) - steps * unit:.{decimals}f}"
    return text[: one.start()] + new + text[one.end() :], f"{old} to {new}"


def wrong_name(text: str, others: Others, rng: np.random.Generator) -> Made:
    """The text with one name replaced by another of the data, wherever it is in the text."""
    own = sorted(set(names(text)))
    new = [name for name in others.names if name not in text]
    if not own or not new:
        return None
    old, name = own[rng.integers(len(own))], new[rng.integers(len(new))]
    return re.sub(rf"\b{old}\b", name, text), f"{old} to {name}"


def shuffled_sentences(text: str, others: Others, rng: np.random.Generator) -> Made:
    """The text with its sentences in another order."""
    found = sentences(text)
    if len(set(found)) < 2:
        return None
    while (order := rng.permutation(len(found)).tolist()) == sorted(order) or [found[i] for i in order] == found:
        pass
    return " ".join(found[i] for i in order), f"sentences {', '.join(str(i + 1) for i in order)}"


def spliced(text: str, others: Others, rng: np.random.Generator) -> Made:
    """Its first half of sentences, and then the second half of a response to another prompt."""
    other = [one for one in others.responses if one != text]
    own = sentences(text)
    if len(own) < 2 or not other:
        return None
    end = sentences(other[rng.integers(len(other))])
    return " ".join([*own[: len(own) // 2], *end[len(end) // 2 :]]), f"{len(own) // 2} sentences, then another response"


PERTURBATIONS: dict[str, Perturbation] = {
    "truncated": truncated,
    "wrong_number": wrong_number,
    "wrong_name": wrong_name,
    "shuffled_sentences": shuffled_sentences,
    "spliced": spliced,
}
