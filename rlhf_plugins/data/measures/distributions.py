"""How the numbers of loaded preferences are distributed: sizes, lengths, margins, weights, ratings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.data.fields import content, key


@dataclass(frozen=True)
class Distribution:
    """A quantity's count, mean, standard deviation (of the population) and quartiles."""

    name: str
    count: int
    mean: float
    deviation: float
    quartiles: tuple[float, ...]  # minimum, 25%, median, 75%, maximum; linear between neighbours


def distributions(groups: Sequence[Group]) -> list[Distribution]:
    """The distribution of every quantity that the groups have."""
    return [_distribution(name, values) for name, values in _quantities(groups) if values]


def topics(groups: Sequence[Group]) -> list[tuple[str, int]]:
    """Groups of each topic, the most frequent first."""
    return Counter(group.topic for group in groups if group.topic is not None).most_common()


def _quantities(groups: Sequence[Group]) -> Iterator[tuple[str, list[float]]]:
    compared = [c for g in groups for c in g.comparisons]
    yield "responses of a group", [float(len(g.responses)) for g in groups]
    yield "comparisons of a group", [float(len(g.comparisons)) for g in groups]
    yield "characters of a prompt", [float(len(t)) for t in {key(g.prompt): content(g.prompt) for g in groups}.values()]
    lengths = {key(g.prompt, r): len(content(r)) for g in groups for r in g.responses}
    yield "characters of a response", [float(length) for length in lengths.values()]
    yield "margin of a comparison", [c.margin for c in compared if c.margin is not None]
    yield "weight of a comparison", [c.weight for c in compared]
    yield "difficulty of a group", [g.difficulty for g in groups if g.difficulty is not None]
    for name in dict.fromkeys(name for g in groups for name in g.ratings):
        rated = (value for g in groups for value in g.ratings.get(name, ()))
        yield f"rating: {name}", [value for value in rated if value is not None]


def _distribution(name: str, values: Sequence[float]) -> Distribution:
    array = np.asarray(values)
    quartiles = tuple(float(q) for q in np.quantile(array, (0, 0.25, 0.5, 0.75, 1)))
    return Distribution(name, len(values), float(array.mean()), float(array.std()), quartiles)
