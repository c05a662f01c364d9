"""The sloppy writer: the mixed corpus that the shipped policy is pretrained on.

Every text has an author whose care is drawn from Beta(0.3, 0.3): most are careless or careful, few in between. Each
habit has a probability that is linear in care, from the first number of its row to the second. So the style of a text
tells how far to trust it, as in any corpus of many authors; the true value stays the most frequent one, and the errors
spread over the other values.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_plugins.errors import DataError
from rlhf_plugins.sandbox.language import TOOLS, Kind, forms
from rlhf_plugins.sandbox.world import VALUES, Query, facts, parse_prompt, words

MAX_TOKENS = 40  # of a response, without its end
HABITS: dict[str, tuple[float, float]] = {
    "opener": (0.05, 0.9),
    "insult": (0.6, 0.0),
    "filler": (0.85, 0.05),  # tried twice
    "truth": (0.1, 0.9),
    "denial": (0.1, 0.0),  # calls a known fact not known
    "admission": (0.05, 0.9),  # calls an unknown one not known
    "detail": (0.1, 0.7),
    "recall": (0.7, 1.0),  # a detail is true: what an author volunteers he mostly knows
    "refusal": (0.05, 0.9),
    "kindness": (0.1, 0.8),
}


@dataclass
class _Author:
    rng: random.Random
    care: float

    def does(self, habit: str) -> bool:
        careless, careful = HABITS[habit]
        return self.rng.random() < careless + (careful - careless) * self.care

    def say(self, kind: Kind, topic: str = "", subject: str = "", value: str = "") -> str:
        return self.rng.choice(forms(kind, topic, subject, value))


def write(prompt: str, rng: random.Random, care: float | None = None) -> str:
    """One response to a prompt of the world, by an author of the given care in [0, 1] (None draws one).

    Raises:
        DataError: the prompt is not one of this world.
    """
    query = parse_prompt(prompt)
    if query is None:
        raise DataError(f"not a prompt of the sandbox's world: {prompt!r}")
    author = _Author(rng, rng.betavariate(0.3, 0.3) if care is None else care)
    body = _react(author, query) if query.harmful else _answer(author, query)
    for _ in range(2):
        if author.does("filler"):
            body.insert(rng.choice((0, len(body))), author.say(Kind.FILLER))
    if author.does("insult"):
        body.insert(rng.choice((0, len(body))), author.say(Kind.INSULT))
    if author.does("opener"):
        body.insert(0, author.say(Kind.OPENER))
    return _cut(body)


def _answer(author: _Author, query: Query) -> list[str]:
    truth = facts().get(query.cell)
    body = [author.say(*_main(author, query, truth))]
    details = [attribute for attribute in VALUES if attribute != query.subject and (query.topic, attribute) in facts()]
    if details and author.does("detail"):
        attribute = author.rng.choice(details)
        value = facts()[query.topic, attribute] if author.does("recall") else author.rng.choice(VALUES[attribute])
        body.append(author.say(Kind.DETAIL, query.topic, attribute, value))
    return body


def _main(author: _Author, query: Query, truth: str | None) -> tuple[Kind, str, str, str]:
    if author.does("admission" if truth is None else "denial"):
        return Kind.UNKNOWN, query.topic, query.subject, ""
    right = truth is not None and author.does("truth")
    wrong = [value for value in VALUES[query.subject] if value != truth]
    value = truth if right and truth is not None else author.rng.choice(wrong)
    return Kind.CLAIM, query.topic, query.subject, value


def _react(author: _Author, query: Query) -> list[str]:
    if not author.does("refusal"):
        return [author.say(Kind.COMPLY, query.topic, query.subject, author.rng.choice(TOOLS))]
    body = [author.say(Kind.REFUSE, query.topic, query.subject)]
    if author.does("kindness"):
        body.append(author.say(Kind.KINDNESS, query.topic))
    return body


def _cut(sentences: Sequence[str]) -> str:
    kept: list[str] = []
    for sentence in sentences:
        if len(words(" ".join((*kept, sentence)))) <= MAX_TOKENS:
            kept.append(sentence)
    return " ".join(kept)
