"""Puts pairs of one prompt together again as groups, so that a shared response is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import fsum

from rlhf_plugins.contract.rows import Comparison, Data, Group, Text
from rlhf_plugins.data.fields import agreed, joined, key
from rlhf_plugins.data.splits import digest


def group_prompts(data: Data, max_responses: int | None, seed: int) -> Data:
    """The data with its groups merged in each split; the prompts stay as they are."""
    train, test, strange = (
        tuple(merged(groups, max_responses, seed)) for groups in (data.train, data.test, data.out_of_distribution)
    )
    return replace(data, train=train, test=test, out_of_distribution=strange)


def merged(groups: Iterable[Group], max_responses: int | None = None, seed: int = 0) -> Iterator[Group]:
    """One group a prompt and topic, each distinct response once, with every comparison of the groups put in.

    A group of more than `max_responses` is cut into blocks of at most so many that hold every comparison once. Its
    responses are dealt by hash (so the order of rows does not matter) into n parts of max_responses // 2, and a block
    is two of the parts: n (n - 1) / 2 blocks, and a response is in up to n - 1 of them. A merged group's difficulty
    is the mean of its groups', and it has the columns in which they agree; it has no ratings and no gold rewards.

    Args:
        groups: pairs, or larger groups.
        max_responses: at least 2, or None for no limit.
        seed: the seed of the deal.
    """
    alike: dict[tuple[str, str | None], list[Group]] = {}
    for group in groups:
        alike.setdefault((key(group.prompt), group.topic), []).append(group)
    for same in alike.values():
        whole = _whole(same)
        too_large = max_responses is not None and len(whole.responses) > max_responses
        yield from _blocks(whole, max_responses // 2, seed) if too_large and max_responses else [whole]


def _whole(groups: Sequence[Group]) -> Group:
    places: dict[str, int] = {}
    texts: list[Text] = []
    for group in groups:
        for response in group.responses:
            if places.setdefault(key(response), len(texts)) == len(texts):
                texts.append(response)
    compared = [
        replace(c, better=places[key(g.responses[c.better])], worse=places[key(g.responses[c.worse])])
        for g in groups
        for c in g.comparisons
    ]
    hard = [g.difficulty for g in groups if g.difficulty is not None]
    difficulty = fsum(hard) / len(hard) if hard else None
    first = groups[0]
    return Group(
        first.prompt,
        tuple(texts),
        compared=tuple(compared),
        topic=first.topic,
        difficulty=difficulty,
        columns=agreed([group.columns for group in groups]),
        origin=joined([group.origin for group in groups]),
    )


def _blocks(group: Group, size: int, seed: int) -> Iterator[Group]:
    count = len(group.responses)
    dealt = sorted(range(count), key=lambda i: digest(key(group.prompt, group.responses[i]), seed))
    part = {i: place // size for place, i in enumerate(dealt)}
    inside: dict[tuple[int, int], list[Comparison]] = {}
    last = (count - 1) // size
    for c in group.compared or ():
        first, second = sorted((part[c.better], part[c.worse]))
        if first == second:  # goes with the pairs of this part and its neighbour
            first, second = (first, first + 1) if first < last else (first - 1, first)
        inside.setdefault((first, second), []).append(c)
    for pair in combinations(range(last + 1), 2):
        if pair in inside:
            yield _block(group, inside[pair])


def _block(group: Group, compared: Sequence[Comparison]) -> Group:
    used = sorted({i for c in compared for i in (c.better, c.worse)})
    place = {i: new for new, i in enumerate(used)}
    moved = tuple(replace(c, better=place[c.better], worse=place[c.worse]) for c in compared)
    return replace(group, responses=tuple(group.responses[i] for i in used), compared=moved)
