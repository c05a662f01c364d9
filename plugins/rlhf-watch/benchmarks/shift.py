"""How often `rlhf watch shift` and `groups` take what is alike for different, with 4 rows of each prompt.

    python plugins/rlhf-watch/benchmarks/shift.py

With every row counted, and with one row of each prompt or conversation; of groups, with their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from json import dumps
from typing import Any

import numpy as np
from rlhf_watch.groups.fairness import by_group
from rlhf_watch.groups.reading import by_prompt
from rlhf_watch.shift.distance import Distance
from rlhf_watch.shift.two_sample import classifier_test
from rlhf_watch.shift.units import one_each

Rows = list[tuple[Any, Any]]
WORDS = [f"w{place}" for place in range(40)]
TIMES, ROWS = 400, 4


def says(rng: np.random.Generator) -> str:
    """Twelve words."""
    return " ".join(rng.choice(WORDS, 12))


def conversations(rng: np.random.Generator, count: int = 40) -> Rows:
    """The prompts of ROWS turns of each: a later one holds the earlier."""
    found: Rows = []
    for _ in range(count):
        turns: list[dict[str, str]] = []
        for _ in range(ROWS):
            turns = [*turns, {"role": "user", "content": says(rng)}]
            found.append((turns, dumps(turns)))
            turns = [*turns, {"role": "assistant", "content": says(rng)}]
    return found


def responses(rng: np.random.Generator, count: int = 200, width: int = 10) -> Rows:
    """The features of ROWS responses to each prompt, four fifths of whose variance the prompt makes."""
    shared, own = rng.normal(size=(count, 1, width)), rng.normal(size=(count, ROWS, width))
    features = np.sqrt(0.8) * shared + np.sqrt(0.2) * own
    return [(str(place), row) for place, rows in enumerate(features) for row in rows]


def prompts_differ(ours: Rows, theirs: Rows) -> float:
    """The classifier's p-value."""
    return classifier_test([text for _, text in ours], [text for _, text in theirs]).p


def responses_differ(ours: Rows, theirs: Rows) -> float:
    """The p-value of the responses beyond the threshold of 1%."""
    usual, fresh = (np.array([row for _, row in rows]) for rows in (ours, theirs))
    distance = Distance.of(usual)
    return distance.chance(int((distance(fresh) > distance.threshold(0.01)).sum()), len(fresh), 0.01)


def shown(title: str, draw: Callable[[np.random.Generator], Rows], test: Callable[[Rows, Rows], float]) -> str:
    """A line of the two shares."""
    found: dict[str, list[float]] = {"every row": [], "one of each": []}
    rng = np.random.default_rng(0)
    for _ in range(TIMES):
        drawn = draw(rng), draw(rng)
        found["every row"].append(test(*drawn))
        found["one of each"].append(test(*map(one_each, drawn)))
    shares = (f"{name} {np.mean(np.less_equal(p, 0.05)):.1%}" for name, p in found.items())
    return f"{title}, at 5%: {', '.join(shares)}"


def groups_differ(count: int = 60) -> str:
    """A line of the shares for three equal groups of prompts, half of which are hard."""
    rng, found = np.random.default_rng(0), list[tuple[float, float]]()
    for _ in range(TIMES // 2):
        right = rng.random((count, ROWS)) < np.where(rng.random(count) < 0.5, 0.3, 0.95)[:, None]
        rows: list[dict[str, Any]] = [
            {"prompt": str(prompt), "topic": "abc"[prompt % 3], "right": float(one)}
            for prompt, own in enumerate(right)
            for one in own
        ]
        every = by_group([row["topic"] for row in rows], [row["right"] for row in rows]).p
        units = by_prompt(rows, "topic")
        means = [float(np.mean([row["right"] for row in own])) for _, own in units]
        found.append((every, by_group([topic for topic, _ in units], means).p))
    every, one = np.less_equal(found, 0.05).mean(0)
    return f"groups, at 5%: every row {every:.1%}, the mean of each {one:.1%}"


def main() -> None:
    """Prints all three."""
    print(groups_differ())
    print(shown("prompts of conversations", conversations, prompts_differ))
    print(shown("responses", responses, responses_differ))


if __name__ == "__main__":
    main()
