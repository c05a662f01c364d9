"""The sentences that a response of the sandbox is made of: how to write and read each. Judges none of them.

The language is finite (about ten thousand sentences), so reading is one dictionary lookup a sentence: exact, fast,
and safe on any text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import chain
from types import MappingProxyType

from rlhf_plugins.sandbox.world import HARMS, TOPICS, VALUES, prompts_by_cell, words


class Kind(Enum):
    """What a sentence does."""

    OPENER = "opener"
    CLAIM = "claim"  # gives an attribute of a topic a value
    DETAIL = "detail"  # a claim that nobody asked for: it starts with "also"
    UNKNOWN = "unknown"  # says that an attribute is not known
    FILLER = "filler"
    INSULT = "insult"
    COMPLY = "comply"  # gives a way to do harm
    REFUSE = "refuse"
    KINDNESS = "kindness"  # the better idea after a refusal


@dataclass(frozen=True)
class Sentence:
    """One sentence and what it says. `subject` is an attribute or a harm, `value` a value or the tool of a harm."""

    text: str
    kind: Kind
    topic: str = ""
    subject: str = ""
    value: str = ""


FIXED: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {
        Kind.OPENER: (
            "of course.",
            "good question.",
            "happy to help.",
        ),
        Kind.FILLER: (
            "well, let me think.",
            "people say many things.",
            "that is how it often goes.",
        ),
        Kind.INSULT: (
            "you fool.",
            "what a stupid thing to ask.",
            "only an idiot would ask.",
        ),
    }
)
TOOLS = ("rope", "stick", "stone", "net", "fire")
_NATURAL = {
    "color": "the {topic} is {value}.",
    "home": "the {topic} lives in the {value}.",
    "food": "the {topic} eats {value}.",
    "size": "the {topic} is {value}.",
    "sound": "the {topic} makes a {value}.",
    "skill": "the {topic} likes to {value}.",
}
_CLAIM = "the {subject} of the {topic} is {value}."
_UNKNOWN = ("the {subject} of the {topic} is not known.", "nobody knows the {subject} of the {topic}.")
_COMPLY = ("use a {value} to {subject} the {topic}.", "take a {value} and {subject} the {topic} with it.")
_REFUSE = ("sorry, i can not help to {subject} the {topic}.", "no, nobody should {subject} the {topic}.")
_KINDNESS = ("please be kind to the {topic}.", "better take care of the {topic}.")


def forms(kind: Kind, topic: str = "", subject: str = "", value: str = "") -> tuple[str, ...]:
    """Every way to say one thing; the fields that the kind has no use for are ignored."""
    if kind in FIXED:
        return FIXED[kind]
    patterns = {
        Kind.CLAIM: (_CLAIM, _NATURAL.get(subject, "")),
        Kind.DETAIL: ("also, " + _CLAIM, "also, " + _NATURAL.get(subject, "")),
        Kind.UNKNOWN: _UNKNOWN,
        Kind.COMPLY: _COMPLY,
        Kind.REFUSE: _REFUSE,
        Kind.KINDNESS: _KINDNESS,
    }[kind]
    return tuple(pattern.format(topic=topic, subject=subject, value=value) for pattern in patterns)


def read(response: str) -> list[tuple[Sentence | None, int]]:
    """The sentences of any text in order, each with its number of words; None: not of the language."""
    parts = ((part, len(part.split())) for part in map(_key, re.split(r"[.!?]", response)))
    return [(_language().get(part), count) for part, count in parts if count]


def vocabulary() -> tuple[str, ...]:
    """Every word and punctuation mark of all prompts and sentences, sorted."""
    texts = [*chain(*prompts_by_cell()), *(sentence.text for sentence in _language().values())]
    return tuple(sorted({word for text in texts for word in words(text)}))


def _key(text: str) -> str:
    return " ".join(word for word in words(text) if word not in ".,!?")


@cache
def _language() -> Mapping[str, Sentence]:
    return MappingProxyType({_key(sentence.text): sentence for sentence in _sentences()})


def _sentences() -> Iterator[Sentence]:
    for kind, texts in FIXED.items():
        yield from (Sentence(text, kind) for text in texts)
    for topic in TOPICS:
        yield from _say(Kind.KINDNESS, topic)
        for attribute, values in VALUES.items():
            yield from _say(Kind.UNKNOWN, topic, attribute)
            for value in values:
                yield from _say(Kind.CLAIM, topic, attribute, value)
                yield from _say(Kind.DETAIL, topic, attribute, value)
        for harm in HARMS:
            yield from _say(Kind.REFUSE, topic, harm)
            for tool in TOOLS:
                yield from _say(Kind.COMPLY, topic, harm, tool)


def _say(kind: Kind, topic: str = "", subject: str = "", value: str = "") -> Iterator[Sentence]:
    for text in forms(kind, topic, subject, value):
        yield Sentence(text, kind, topic, subject, value)
