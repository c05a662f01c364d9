"""Which rows a round trains on: its own, some of round 0, and the clearest of the rounds between. Rows in, rows out."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated

from pydantic import Field

from rlhf_constitution.texts import plain
from rlhf_plugins import Group


@dataclass(frozen=True)
class Replay:
    """Shares of a round's rows that come from earlier rounds, against forgetting."""

    first: Annotated[float, Field(ge=0.2, lt=1, description="share of rows of round 0")] = 0.2
    best: Annotated[float, Field(ge=0, lt=0.5, description="share of the clearest rows of the other rounds")] = 0.1

    def __post_init__(self) -> None:
        if self.first + self.best >= 1:
            raise ValueError("first and best: together they should be below 1")

    def rows(self, rounds: Sequence[Sequence[Group]], seed: int) -> list[Group]:
        """The rows of the last of some rounds, with rows of the earlier ones; a row may be repeated."""
        *earlier, new = rounds
        if not earlier:
            return list(new)
        draw, (zeroth, *between) = random.Random(seed), earlier
        clearest = sorted((group for rows in between for group in rows), key=clearness, reverse=True)
        best = self.best if clearest else 0.0
        whole = len(new) / (1 - self.first - best)
        first, others = math.ceil(self.first * whole), math.ceil(best * whole)
        found = [*new, *drawn(zeroth, first, draw), *(clearest[:others] if clearest else [])]
        draw.shuffle(found)
        return found


def clearness(group: Group) -> float:
    """How clear a row's labels are: the largest margin of its pairs; of a revision, how far P rose."""
    margins = [pair.margin or 0.0 for pair in group.compared or ()]
    rise = (group.columns.get("after") or 0.0) - (group.columns.get("before") or 0.0)
    return max([rise, *margins])


def drawn(rows: Sequence[Group], count: int, draw: random.Random) -> list[Group]:
    """So many rows; each is drawn once before any is drawn again."""
    found: list[Group] = []
    while rows and len(found) < count:
        found += draw.sample(list(rows), min(len(rows), count - len(found)))
    return found


def easiest(prompts: Sequence[Group], share: float) -> tuple[Group, ...]:
    """The easier prompts by `difficulty`, where rows have one, else by their length; in the order that they had."""
    ranked = sorted(range(len(prompts)), key=lambda i: (prompts[i].difficulty or 0.0, len(plain(prompts[i].prompt))))
    chosen = set(ranked[: max(1, math.ceil(share * len(prompts)))])
    return tuple(group for place, group in enumerate(prompts) if place in chosen)


def coverage(rows: Sequence[Group], prompts: Sequence[Group]) -> float:
    """The share of topics that have a row; of prompts where they have no topics."""
    topics = {group.topic or plain(group.prompt) for group in prompts}
    known = {plain(group.prompt): group.topic or plain(group.prompt) for group in prompts}
    return len({known.get(plain(group.prompt)) for group in rows} & topics) / max(1, len(topics))


def outliers(rows: Sequence[Group]) -> float:
    """The share of responses whose length is over 3.5 (scaled) median deviations from the median."""
    counts = [len(plain(text).split()) for group in rows for text in group.responses]
    if not counts:
        return 0.0
    middle = median(counts)
    deviation = 1.4826 * median(abs(count - middle) for count in counts) or 1.0
    return sum(abs(count - middle) > 3.5 * deviation for count in counts) / len(counts)
