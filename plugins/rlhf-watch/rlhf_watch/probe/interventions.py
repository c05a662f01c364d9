"""Interventions on a response that keep what it says: the response with a property, and without. Texts alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

FILLERS = ("well, let me think.", "people say many things.", "that is how it often goes.")
OPENERS = ("of course.", "good question.", "happy to help.")
SENTENCE = re.compile(r"(?<=[.!?])\s+")
MARKS = re.compile(r"\*\*|__|`|^#+ |^[-*] ", re.MULTILINE)

Change = Callable[[str, int], str]  # a response and its number, which chooses among wordings


@dataclass(frozen=True)
class Intervention:
    """do(X = 1) and do(X = 0) of a property X of a response; `measure` is X of any response.

    Args:
        unit: the unit of X.
        measure: None where X is not seen in a response alone.
        wordings: texts that `on` adds; a model whose tokenizer does not know one cannot be asked.
    """

    name: str
    unit: str
    measure: Callable[[str], float] | None
    on: Change
    off: Change
    wordings: tuple[str, ...] = ()


def interventions(fillers: Sequence[str] = FILLERS, openers: Sequence[str] = OPENERS) -> tuple[Intervention, ...]:
    """Length, politeness, markdown and order.

    - length: a sentence that says nothing, at the end; X counts words.
    - politeness: a polite sentence at the start; X is whether the response starts with one of `openers`.
    - markdown: every sentence is an item of a list; X is whether there is any mark of markdown.
    - order: the first sentence comes last; X is not seen in a response.
    """
    polite = tuple(opener.lower() for opener in openers)
    return (
        Intervention(
            "length",
            "word",
            words,
            lambda text, i: _after(text, fillers[i % len(fillers)]),
            _as_it_is,
            tuple(fillers),
        ),
        Intervention(
            "politeness",
            "opener",
            lambda text: float(text.lower().startswith(polite)),
            lambda text, i: _before(_without_opener(text, polite), openers[i % len(openers)]),
            lambda text, i: _without_opener(text, polite),
            tuple(openers),
        ),
        Intervention(
            "markdown",
            "list",
            lambda text: float(bool(MARKS.search(text))),
            lambda text, i: "\n".join(f"- {one}" for one in sentences(plain(text))),
            lambda text, i: plain(text),
            ("- a",),
        ),
        Intervention("order", "move", None, lambda text, i: _first_last(text), _as_it_is),
    )


def words(text: str) -> float:
    """The number of words."""
    return float(len(text.split()))


def sentences(text: str) -> list[str]:
    """The sentences of a text, without what is empty."""
    return [one for one in SENTENCE.split(text.strip()) if one]


def plain(text: str) -> str:
    """Without marks of markdown; lists become sentences of one line."""
    return re.sub(r"\s*\n\s*", " ", MARKS.sub("", text)).strip()


def _as_it_is(text: str, _: int) -> str:
    return text


def _after(text: str, filler: str) -> str:
    return f"{text.rstrip()} {_cased(filler, text)}"


def _before(text: str, opener: str) -> str:
    return f"{_cased(opener, text)} {text}"


def _cased(added: str, text: str) -> str:
    """With a capital where the response begins with one."""
    return added[:1].upper() + added[1:] if text.lstrip()[:1].isupper() else added


def _without_opener(text: str, polite: tuple[str, ...]) -> str:
    opener = next((one for one in polite if text.lower().startswith(one)), "")
    rest = text[len(opener) :].lstrip()
    return rest or text  # a response that is nothing else stays


def _first_last(text: str) -> str:
    first, *rest = sentences(text) or [text]
    return " ".join([*rest, first])
