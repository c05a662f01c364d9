"""Pairs with another's labels, and which pairs a reward orders rightly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp
from typing import Any, NamedTuple

import numpy as np

from rlhf_plugins import Comparison, Group
from rlhf_transfer.recovered import Numbers

Score = Callable[[Sequence[Group]], list[list[float]]]  # rewards of each group's responses


def split(groups: Sequence[Group], share: float, seed: int) -> tuple[list[Group], list[Group]]:
    """Two parts without a common prompt, the first with about this share of the prompts."""
    prompts = list(dict.fromkeys(str(group.prompt) for group in groups))
    order = np.random.default_rng(seed).permutation(len(prompts))
    first = {prompts[i] for i in order[: round(share * len(prompts))]}
    return ([g for g in groups if str(g.prompt) in first], [g for g in groups if str(g.prompt) not in first])


def labelled(groups: Sequence[Group], rewards: Sequence[Sequence[float]], soft: bool) -> list[Group]:
    """The compared pairs as the rewards order them; equal rewards are no label.

    Args:
        groups: with comparisons, of which only the places count.
        rewards: the rewards of each group's responses.
        soft: labels are sigmoid(r_better - r_worse), not certain.
    """
    found = []
    for group, worth in zip(groups, rewards, strict=True):
        judged = tuple(_judged(one, worth, soft) for one in group.comparisons if worth[one.better] != worth[one.worse])
        if judged:
            found.append(replace(group, ranks=None, margin=None, ratings={}, compared=judged))
    return found


def _judged(one: Comparison, worth: Sequence[float], soft: bool) -> Comparison:
    gap = worth[one.better] - worth[one.worse]
    better, worse = (one.better, one.worse) if gap > 0 else (one.worse, one.better)
    return Comparison(better, worse, probability=1 / (1 + exp(-abs(gap))) if soft else None)


class Pairs(NamedTuple):
    """Held-out pairs with their true order."""

    groups: Sequence[Group]
    places: Sequence[tuple[int, int, int]]  # group, the truly better response, the other
    kept: Numbers  # (pairs,) 1 where people's label has this order, 0 where the other
    prompts: Any  # (pairs,) codes


def pairs(groups: Sequence[Group], by_gold: bool) -> Pairs:
    """Every strictly ordered comparison; where `by_gold`, its order is that of the true rewards, and equal ones go."""
    places, kept = [], []
    for number, group in enumerate(groups):
        for one in (each for each in group.comparisons if not each.tied):
            gap = group.gold[one.better] - group.gold[one.worse] if by_gold and group.gold else 1.0
            if gap:
                places.append((number, *((one.better, one.worse) if gap > 0 else (one.worse, one.better))))
                kept.append(float(gap > 0))
    names = [str(groups[number].prompt) for number, _, _ in places]
    return Pairs(groups, places, np.array(kept), np.unique(names, return_inverse=True)[1])


def right(found: Pairs, rewards: Sequence[Sequence[float]]) -> Numbers:
    """(pairs,) 1 where the rewards of the groups' responses order a pair rightly, 1/2 at a tie, 0."""
    gaps = np.array([rewards[number][better] - rewards[number][worse] for number, better, worse in found.places])
    return np.where(gaps == 0, 0.5, gaps > 0).astype(float)
