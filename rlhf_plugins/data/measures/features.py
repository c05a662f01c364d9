"""What loaded preferences look like, as a selector reads it. It counts on groups and knows no algorithm."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import log, sqrt
from statistics import fmean
from typing import Any

from rlhf_plugins.arithmetic.intervals import wilson_interval
from rlhf_plugins.contract.rows import Comparison, Data, Group
from rlhf_plugins.contract.selection import Features
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import content, key
from rlhf_plugins.data.measures.audit import Share, audit
from rlhf_plugins.errors import DataError

VOTES = "votes"  # a column with the number of votes for either response, `{a: 2, b: 1}`


def features(data: Data) -> Features:
    """The features of all judged groups, and of the rows that were left out since they contradict others.

    Where some rows contradict others, rows that repeat a judgement are further judgements of a pair; else they may be
    copies, and do not count.

    Raises:
        DataError: no response is preferred to another.
    """
    groups = [*data.train, *data.test]
    found = audit(data)
    strict = [(group, c) for group in groups for c in group.comparisons if not c.tied]
    if not strict:
        raise DataError("no response is preferred to another, so that there is nothing to choose an algorithm by")
    again = data.dropped.judged_again if isinstance(data.dropped, Dropped) else []
    both = sum(len(counts) > 1 for counts in again)  # rows that contradict others are in no group
    agreed = [*_agreed(groups), *(map(_agreeing, again) if both else ())]
    topics = Counter(group.topic for group in groups if group.topic is not None)
    return Features(
        pairs=len(strict),
        prompts=found.prompts,
        diversity=_diversity(groups),
        topics=len(topics) or None,
        coverage=_coverage(topics),
        strength=_strength(strict),
        **_noise(agreed),
        contradictions=(found.contradictions + both) / (len(strict) + both),
        circles=_share(found.circling),
        longer_wins=_share(found.longer_wins),
        ties=found.ties / found.comparisons,
    )


def error_rate(disagreement: float) -> float:
    """e where two annotators who err independently disagree on 2 e (1 - e) of the pairs; 1/2 where they guess."""
    return (1 - sqrt(max(0.0, 1 - 2 * disagreement))) / 2


def _noise(agreed: Sequence[float]) -> dict[str, Any]:
    """The noise, from how often judgements of a pair agree, one number for each pair that was judged again."""
    if not agreed:
        return {}
    agreement = fmean(agreed)
    low, high = (error_rate(end) for end in wilson_interval(1 - agreement, len(agreed)))
    around = {"noise_low": low, "noise_high": high, "judged_again": len(agreed)}
    return {"agreement": agreement, "noise": error_rate(1 - agreement), **around}


def _share(found: Share) -> float | None:
    return found.count / found.of if found.of else None


def _diversity(groups: Sequence[Group]) -> float | None:
    prompts = {key(group.prompt): content(group.prompt).split() for group in groups}
    bigrams = [pair for words in prompts.values() for pair in zip(words, words[1:], strict=False)]
    return len(set(bigrams)) / len(bigrams) if bigrams else None


def _coverage(topics: Counter[str]) -> float | None:
    if not topics:
        return None
    shares = [count / topics.total() for count in topics.values()]
    return -sum(share * log(share) for share in shares) / log(len(shares)) if len(shares) > 1 else 0.0


def _strength(strict: Iterable[tuple[Group, Comparison]]) -> float | None:
    """The mean margin or, where a pair has none, the mean distance of its ratings."""
    found = []
    for group, c in strict:
        rated = [(r[c.better], r[c.worse]) for r in group.ratings.values()]
        gaps = [better - worse for better, worse in rated if better is not None and worse is not None]
        if c.margin is not None:
            found.append(abs(c.margin))
        elif gaps:
            found.append(abs(fmean(gaps)))
    return fmean(found) if found else None


def _agreed(groups: Iterable[Group]) -> list[float]:
    """How often two judgements of one pair agree, of each pair with several and of those with a share of votes.

    A row may count its votes in a column, as a release of a study has them: `votes: {a: 2, b: 1}`.
    """
    votes: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    agreed = []
    for group in groups:
        if (counts := _counted(group)) is not None:
            agreed += [_agreeing(counts)] if sum(counts) > 1 else []
            continue
        for c in group.comparisons:
            if c.probability is not None:
                agreed.append(1 - 2 * c.probability * (1 - c.probability))
            elif not c.tied:
                better, worse = (key(group.responses[place]) for place in (c.better, c.worse))
                votes[key(group.prompt), min(better, worse), max(better, worse)].append(better < worse)
    several = (said for said in votes.values() if len(said) > 1)
    return agreed + [_agreeing((sum(said), len(said) - sum(said))) for said in several]


def _counted(group: Group) -> list[int] | None:
    """The votes for either response of a row with one comparison, without ties, where a column counts them."""
    votes = group.columns.get(VOTES)
    if not isinstance(votes, Mapping) or len(group.comparisons) != 1 or group.comparisons[0].probability is not None:
        return None
    counts = [votes.get(side) or 0 for side in ("a", "b")]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts)
    return counts if whole and any(counts) else None


def _agreeing(counts: Sequence[int]) -> float:
    """The share of pairs of judgements that agree, of so many that say each thing."""
    n = sum(counts)
    return sum(count * (count - 1) for count in counts) / (n * (n - 1))
