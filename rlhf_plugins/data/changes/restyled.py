"""Other forms of a text that say the same: in another style, or with independent sentences in another order.

Each answers None where the text cannot be changed so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np

from rlhf_plugins.data.changes.perturbations import Others, sentences, shuffled_sentences

CODE = "```"
APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"
MARKS = re.compile(r"^(?:#{1,6}|[*-]) +", re.MULTILINE)  # of headings and items
BOLD = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")
WORD = re.compile(r"[\w']+")
LETTER = re.compile(r"[^\W\d_]")
BEFORE_NOT = ("are", "could", "did", "do", "does", "had", "has", "have", "is", "should", "was", "were", "would")
CONTRACTIONS = {**{f"{verb} not": f"{verb}n't" for verb in BEFORE_NOT}, "cannot": "can't", "will not": "won't"}
EXPANSIONS = {short: whole for whole, short in CONTRACTIONS.items()}
PRONOUNS = frozenset(
    ["he", "her", "hers", "him", "his", "it", "its", "she", "their", "them", "these", "they", "this", "those"]
)
CONNECTIVES = frozenset([
    "afterwards", "also", "although", "and", "another", "because", "besides", "both", "but", "finally", "first",
    "furthermore", "hence", "however", "instead", "last", "lastly", "later", "likewise", "meanwhile", "moreover",
    "next", "or", "other", "otherwise", "second", "similarly", "since", "so", "still", "such", "that", "then",
    "therefore", "third", "though", "thus", "too", "yet",
])  # fmt: skip


def bullets(text: str) -> str | None:
    """Each sentence of a paragraph as an item of a list."""
    return "\n".join(f"- {one}" for one in found) if (found := _paragraph(text)) else None


def lines(text: str) -> str | None:
    """Each sentence of a paragraph on a line of its own."""
    return "\n".join(found) if (found := _paragraph(text)) else None


def plain(text: str) -> str | None:
    """Without headings, items and bold type of Markdown."""
    made = BOLD.sub(r"\2", MARKS.sub("", text))
    return None if CODE in text or made == text else made


def reordered(text: str, rng: np.random.Generator) -> str | None:
    """The sentences of a paragraph in another order, where none refers to another."""
    if not (found := _paragraph(text)) or not all(map(_is_independent, found)):
        return None
    made = shuffled_sentences(text, Others((), ()), rng)
    return None if made is None else made[0]


def _paragraph(text: str) -> list[str]:
    """The sentences of a text of one paragraph, two or more; none of another text."""
    found = sentences(text)
    return found if len(found) > 1 and "\n" not in text.strip() and CODE not in text else []


def _is_independent(sentence: str) -> bool:
    words = [word.lower() for word in WORD.findall(sentence)]
    return bool(LETTER.search(sentence)) and words[0] not in CONNECTIVES and PRONOUNS.isdisjoint(words)


def _replaced(text: str, table: dict[str, str]) -> str | None:
    """The text with the words of a table replaced; the first letter keeps its case."""

    def other(found: re.Match[str]) -> str:
        new = table[found.group().lower().replace(APOSTROPHE, "'")]
        return new[0].upper() + new[1:] if found.group()[0].isupper() else new

    words = "|".join(map(re.escape, table)).replace("'", f"['{APOSTROPHE}]")
    made = re.sub(rf"\b(?:{words})\b", other, text, flags=re.IGNORECASE)
    return None if CODE in text or made == text else made


STYLES: dict[str, Callable[[str], str | None]] = {
    "bullets": bullets,
    "contracted": partial(_replaced, table=CONTRACTIONS),
    "expanded": partial(_replaced, table=EXPANSIONS),
    "lines": lines,
    "plain": plain,
}
