"""From one kind of judgement to another: votes, strengths, ratings, rankings, pairs. Pure functions, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import fsum
from typing import Any

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.turns import TOOLS

Row = dict[str, Any]
DIGITS = 9  # of a difference of ratings; what is smaller is rounding


@dataclass(frozen=True)
class Judgement:
    """The combined judgement of several annotators on two responses."""

    sign: int  # 1 the first is better, -1 the second, 0 a tie
    weight: float  # (0, 1] how far they agree
    margin: float | None = None


def vote(labels: Sequence[int], counts: Sequence[float] = ()) -> Judgement | None:
    """The label with most votes; its weight is the margin of the vote, (n_1 - n_2) / n.

    n_1 votes are for the winner, n_2 for the next label, n in all: 1 when all agree, 3:2 gives 0.2. None when no label
    has more votes than every other: then there is no judgement.

    Args:
        labels: at least one of 1 (the first is better), -1 (the second) and 0 (a tie).
        counts: how many votes each is, above 0; one if left out.
    """
    counts = counts or [1.0] * len(labels)
    votes = Counter[int]()
    for label, count in zip(labels, counts, strict=True):
        votes[label] += count  # type: ignore[assignment]
    (winner, most), *others = votes.most_common()
    ahead = round(most - (others[0][1] if others else 0), DIGITS)
    return Judgement(winner, ahead / fsum(counts)) if ahead > 0 else None


def mean_strength(strengths: Sequence[float], counts: Sequence[float] = ()) -> Judgement | None:
    """The sign of the mean strength, its size as the margin, and as weight the share that is not cancelled out.

    The weight is |sum s| / sum |s|: 1 when nobody contradicts. All zeros are a tie of weight 1; None when strengths
    other than zero cancel each other out.

    Args:
        strengths: at least one; positive in favour of the first response.
        counts: how often each counts, above 0; once if left out.
    """
    counts = counts or [1.0] * len(strengths)
    given = [strength * count for strength, count in zip(strengths, counts, strict=True)]
    total, spent = round(fsum(given), DIGITS), fsum(map(abs, given))
    if not spent:
        return Judgement(0, 1.0, 0.0)
    sign = (total > 0) - (total < 0)
    return Judgement(sign, abs(total) / spent, abs(total) / fsum(counts)) if sign else None


def compare_ratings(group: Group, gap: float = 0.0, by: Sequence[str] = (), margins: bool = False) -> Group:
    """The group with every pair of its responses compared by their ratings, where both have one.

    A response is better when its mean over the dimensions that both were rated on is higher by at least `gap`, and by
    more than 0; otherwise the two tie.

    Args:
        group: a rated group.
        gap: least difference of a strict preference, in the unit of the ratings.
        by: dimensions to compare by; none for all.
        margins: whether the difference becomes the comparison's margin.
    """
    names = by or list(group.ratings)
    compared = []
    for i, j in combinations(range(len(group.responses)), 2):
        rated = [(group.ratings[name][i], group.ratings[name][j]) for name in names]
        gaps = [a - b for a, b in rated if a is not None and b is not None]
        if gaps:
            compared.append(_by_difference(i, j, round(fsum(gaps) / len(gaps), DIGITS), gap, margins))
    weighted = tuple(replace(c, weight=group.weight) for c in compared)
    return replace(group, ranks=None, margin=None, compared=weighted)


def _by_difference(i: int, j: int, difference: float, gap: float, margins: bool) -> Comparison:
    tied = abs(difference) < gap or not difference
    better, worse = (i, j) if tied or difference > 0 else (j, i)
    return Comparison(better, worse, tied, (0.0 if tied else abs(difference)) if margins else None)


def soft_label(probability: float, margin: float | None = None, weight: float = 1.0) -> Comparison:
    """The comparison of two responses of which the first is better with this probability; 1/2 is a tie.

    A probability of 0 or 1 is stored as None, as if none had been given.
    """
    better, worse = (0, 1) if probability >= 0.5 else (1, 0)
    likely = max(probability, 1 - probability)
    return Comparison(better, worse, likely == 0.5, margin, weight, None if likely == 1.0 else likely)


def dense(ranks: Sequence[float | None]) -> tuple[int | None, ...]:
    """Places counted from 0 without gaps, equal ones equal: (3, 1, None, 3) becomes (1, 0, None, 1)."""
    order = {rank: place for place, rank in enumerate(sorted({r for r in ranks if r is not None}))}
    return tuple(None if rank is None else order[rank] for rank in ranks)


def agreed_ranks(group: Group) -> tuple[int, ...] | None:
    """The ranks that agree with every comparison; None where a pair is not compared, or comparisons contradict."""
    size = len(group.responses)
    if group.compared is None or len(group.compared) != size * (size - 1) // 2:
        return None
    lost = [sum(c.worse == i and not c.tied for c in group.compared) for i in range(size)]  # to how many it lost
    agree = all(
        (lost[c.better] == lost[c.worse]) if c.tied else (lost[c.better] < lost[c.worse]) for c in group.compared
    )
    different = len({frozenset((c.better, c.worse)) for c in group.compared}) == len(group.compared)
    return tuple(lost) if agree and different else None


def pairs(groups: Iterable[Group], ties: bool = False) -> Iterator[Group]:
    """Every ordered pair of responses as a group of two, the better first; and every tie if asked.

    A pair with the soft label 1/2 counts as ordered.
    """
    for group in groups:
        for comparison in group.comparisons:
            if ties or not comparison.tied or comparison.probability is not None:
                yield _pair(group, comparison)


def strict_pairs(groups: Iterable[Group]) -> list[Group]:
    """Every pair of responses of which one is better, as a group of two, the better first, with all that is known."""
    return [_pair(group, one) for group in groups for one in group.comparisons if not one.tied]


def _pair(group: Group, comparison: Comparison) -> Group:
    places = (comparison.better, comparison.worse)
    has_more = comparison.probability is not None or comparison.annotator is not None
    return replace(
        group,
        responses=tuple(group.responses[i] for i in places),
        ranks=(0, 0) if comparison.tied else (0, 1),
        margin=comparison.margin,
        gold=tuple(group.gold[i] for i in places) if group.gold else None,
        weight=comparison.weight,
        compared=(replace(comparison, better=0, worse=1),) if has_more else None,
        ratings={name: tuple(values[i] for i in places) for name, values in group.ratings.items()},
    )


def preference_rows(groups: Iterable[Group]) -> list[Row]:
    """A row for each ordered pair, with TRL's columns `prompt`, `chosen`, `rejected` and `margin`, and our own.

    `probability`, `annotator`, `weight`, `topic`, `difficulty` and the further columns follow; a column that no row
    fills is left out. Ties give no row.
    """
    return filled([_preference_row(pair) for pair in pairs(groups)])


def _preference_row(pair: Group) -> Row:
    (comparison,) = pair.comparisons
    texts = {"prompt": pair.prompt, "chosen": pair.responses[0], "rejected": pair.responses[1]}
    more = {name: getattr(comparison, name) for name in ("margin", "probability", "annotator")}
    return with_extras({**texts, **more}, pair)


def rating_rows(groups: Iterable[Group]) -> list[Row]:
    """One row per response, with `prompt`, `response` and each dimension; groups without ratings have none."""
    rows = [
        with_extras(
            {"prompt": g.prompt, "response": response, **{name: values[i] for name, values in g.ratings.items()}}, g
        )
        for g in groups
        if any(value is not None for values in g.ratings.values() for value in values)
        for i, response in enumerate(g.responses)
    ]
    return filled(rows)


def ranking_rows(groups: Iterable[Group]) -> list[Row]:
    """One row per group, with `prompt`, `responses` and `ranks`, or `pairwise` where pairs were compared apart."""
    rows = []
    for g in groups:
        how: Row = {"ranks": None if g.ranks is None else list(g.ranks), "pairwise": None}
        if g.compared is not None or g.margin is not None:
            how = {"ranks": None, "pairwise": [_judgement(c) for c in g.comparisons]}
        if g.comparisons:
            rows.append(with_extras({"prompt": g.prompt, "responses": list(g.responses), **how}, g))
    return filled(rows)


def _judgement(c: Comparison) -> Row:
    winner = None if c.tied else c.better
    fields = {"i": c.better, "j": c.worse, "winner": winner, "margin": c.margin, "weight": c.weight}
    more = {"probability": c.probability, "annotator": c.annotator}
    return fields | {name: value for name, value in more.items() if value is not None}


def with_extras(row: Row, group: Group) -> Row:
    """A row of a format with the group's own columns after it; of two columns of one name the format's stays.

    Tools, which the first message of a prompt carries, become a column of that name, as TRL has them.
    """
    first = next(iter(group.prompt), None)
    if isinstance(first, Mapping) and TOOLS in first:
        bare = {name: value for name, value in first.items() if name != TOOLS}
        row = {**row, "prompt": [bare, *group.prompt[1:]], TOOLS: first[TOOLS]}
    own = {"weight": group.weight, "topic": group.topic, "difficulty": group.difficulty}
    further = {name: value for name, value in group.columns.items() if name not in own}
    return {**row, **own, **further, **row}


def filled(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows with the same columns each, without those that are null, or a weight of 1, in every row."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    idle = {"weight": 1.0}
    kept = [name for name in names if any(row.get(name) not in (None, idle.get(name)) for row in rows)]
    return [{name: row.get(name) for name in kept} for row in rows]
