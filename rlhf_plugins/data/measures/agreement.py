"""How much people agree about a row, and how hard it is to judge. It reads groups and changes nothing."""

from __future__ import annotations

from math import fsum

from rlhf_plugins.contract.rows import Comparison, Group

Pair = frozenset[int]


def agreement(group: Group) -> dict[Pair, float]:
    """(n_1 - n_2) / n of each pair's n votes, those for the first verdict less those for the next; a tie is a verdict.

    A soft label p is p of a vote for `better` and 1 - p for `worse`. Of a pair with one comparison it is so |2p - 1|,
    without p its weight, which is this number where a format has put votes together.
    """
    found: dict[Pair, list[Comparison]] = {}
    for one in group.comparisons:
        found.setdefault(frozenset((one.better, one.worse)), []).append(one)
    return {pair: _agreed(votes) for pair, votes in found.items()}


def _agreed(votes: list[Comparison]) -> float:
    if len(votes) == 1 and votes[0].probability is None:
        return min(votes[0].weight, 1.0)
    found: dict[int | None, list[float]] = {}
    for vote in votes:
        for verdict, part in _parts(vote):
            found.setdefault(verdict, []).append(part)
    first, second = [*sorted(map(fsum, found.values()), reverse=True), 0.0][:2]
    return (first - second) / len(votes)


def _parts(vote: Comparison) -> list[tuple[int | None, float]]:
    """How much of a vote is for each verdict; None is a tie."""
    if vote.probability is not None:
        return [(vote.better, vote.probability), (vote.worse, 1 - vote.probability)]
    return [(None if vote.tied else vote.better, 1.0)]


def by_votes(group: Group) -> float | None:
    """1 - the mean agreement of its pairs: 0 where all agree, 1 where they are evenly divided; None without a pair."""
    found = agreement(group).values()
    return 1 - fsum(found) / len(found) if found else None


def by_margin(group: Group) -> float | None:
    """-|margin|, the mean over its comparisons that have one; None without any."""
    found = [abs(one.margin) for one in group.comparisons if one.margin is not None]
    return -fsum(found) / len(found) if found else None


def by_ratings(group: Group) -> float | None:
    """-|difference| of the mean ratings, the mean over its comparisons with ratings of both; None without any."""
    rated = [_mean(group, place) for place in range(len(group.responses))]
    both = [(rated[one.better], rated[one.worse]) for one in group.comparisons]
    found = [abs(one - other) for one, other in both if one is not None and other is not None]
    return -fsum(found) / len(found) if found else None


def _mean(group: Group, place: int) -> float | None:
    given = [values[place] for values in group.ratings.values()]
    known = [value for value in given if value is not None]
    return fsum(known) / len(known) if known else None
