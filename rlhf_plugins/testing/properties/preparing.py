"""Properties of a data step: held-out rows stay, no row vanishes uncounted, and the same rows come twice."""

from __future__ import annotations

import copy
from typing import Any

from rlhf_plugins.contract.rows import Comparison, Data, Group, Origin
from rlhf_plugins.errors import ComponentError, RlhfError
from rlhf_plugins.testing.conformance import holds_of
from rlhf_plugins.testing.subject import Broken, Subject, expect, raised

TOPICS = ("birds", "sums", "birds")


def rows() -> list[tuple[str, Data]]:
    """Pairs, rankings with ratings, and answers; each with topics, weights and a held-out row."""
    return [(words, _data(groups)) for words, groups in _kinds().items()]


def _kinds() -> dict[str, list[Group]]:
    texts = [(f"What is {i} and {i + 1}?", f"It is {2 * i + 1}. I added them.", f"No idea {i}.") for i in range(6)]
    more: list[dict[str, Any]] = [
        {"topic": TOPICS[i % 3], "difficulty": float(i), "origin": Origin("rows", i + 1)} for i in range(6)
    ]
    votes = (Comparison(0, 1), Comparison(0, 1), Comparison(1, 0))
    return {
        "six pairs": [
            Group(p, (a, b), (0, 1), margin=1.0 + i, weight=0.5, **one)
            for i, ((p, a, b), one) in enumerate(zip(texts, more, strict=True))
        ],
        "six rated groups of three responses": [
            Group(p, (a, b, "?"), (0, 1, 2), ratings={"helpful": (3.0, float(i % 3), None)}, **one)
            for i, ((p, a, b), one) in enumerate(zip(texts, more, strict=True))
        ],
        "six pairs with three votes": [
            Group(p, (a, b), compared=votes, **one) for (p, a, b), one in zip(texts, more, strict=True)
        ],
        "six answers": [Group(p, (a,), **one) for (p, a, _), one in zip(texts, more, strict=True)],
    }


def _data(groups: list[Group]) -> Data:
    asked = {"train": tuple(Group(g.prompt) for g in groups[:-1]), "test": (Group(groups[-1].prompt),)}
    return Data(tuple(groups[:-1]), (groups[-1],), asked, {"repeated row": 2})


@holds_of("data_step")
def steps_repeat_and_count(subject: Subject) -> None:
    """A run is repeated from its seed, its rows stay as they were read, and what is left out is accounted for."""
    step = subject.made()
    if step.builds:  # it asks a model, which its own tests give it
        return
    for words, data in rows():
        before = copy.deepcopy(data)
        try:
            first, again = step(data, 0), step(data, 0)
        except ComponentError as error:
            raise Broken(words, "training rows, with those that are left out counted", raised(error)) from error
        except RlhfError:  # it refuses such rows
            continue
        expect(first == again, f"{words}, twice", "the same rows", "others")
        expect(data == before, words, "rows that are left as they were read", "rows that changed in place")
