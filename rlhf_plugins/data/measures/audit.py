"""What is suspicious in loaded preferences: leaks, circles, biases. It counts on groups and changes nothing."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rlhf_plugins.contract.rows import Data, Group, Text
from rlhf_plugins.data.columns import negative_margins
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import content, key
from rlhf_plugins.errors import DataError

Tokens = Callable[[Text, Text], int]  # of a prompt and a response together


@dataclass(frozen=True)
class Share:
    """A share, and of how many."""

    of: int
    count: int

    def __str__(self) -> str:
        return f"{self.count / self.of:.3f} (n={self.of})" if self.of else "- (n=0)"


@dataclass(frozen=True)
class Audit:
    """Counts of what was loaded and of what may be wrong with it; pairs are strictly ordered."""

    rows: int | None  # None where the format does not count them
    prompts: int
    groups: Mapping[str, int]  # by split
    responses: int  # distinct to their prompts
    comparisons: int
    ties: int
    rated: int  # responses with a rating
    dropped: Mapping[str, int]
    places: Mapping[str, Sequence[str]]  # of what was dropped, the first few
    contradictions: int  # pairs of responses that are ordered both ways, of what was not left out
    negative_margins: Share  # margins that call the preferred response the worse one
    circles: int  # prompts in which a > b > c > a
    circling: Share  # comparisons between responses of one circle
    shared_prompts: Mapping[str, int]  # whose words training and test groups have, and how many; the most first
    shared_responses: Mapping[str, int]  # the same of response texts
    known: Share  # test groups with a response that a training group has too
    longer_wins: Share  # of pairs that differ in length, in characters
    first_wins: Share  # of pairs in the order of their group of two
    too_long: Share | None  # responses that are over the limit with their prompt


def audit(data: Data, tokens: Tokens | None = None, max_length: int | None = None) -> Audit:
    """Counts over the training and test groups.

    Args:
        data: what a format loaded.
        tokens: the length of a prompt with a response; None counts no over-long ones.
        max_length: tokens that they may have together.

    Raises:
        DataError: every response is over-long.
    """
    groups = data.groups
    shared = _shared_responses(data)
    compared = [c for g in groups for c in g.comparisons]
    contradictions, circles, circling = _circles(groups)
    strange = {"out of distribution": len(data.out_of_distribution)} if data.out_of_distribution else {}
    return Audit(
        data.dropped.rows if isinstance(data.dropped, Dropped) else None,
        len({key(g.prompt) for g in groups}),
        {"train": len(data.train), "test": len(data.test), **strange},
        len({key(g.prompt, r) for g in groups for r in g.responses}),
        len(compared),
        sum(c.tied for c in compared),
        sum(any(v[i] is not None for v in g.ratings.values()) for g in groups for i in range(len(g.responses))),
        data.dropped,
        data.dropped.places if isinstance(data.dropped, Dropped) else {},
        contradictions,
        Share(*negative_margins(compared)),
        circles,
        circling,
        _shared_prompts(data),
        {content(json.loads(name)[0]): count for name, count in shared.items()},
        Share(len(data.test), sum(any(key(r) in shared for r in g.responses) for g in data.test)),
        _longer_wins(groups),
        _first_wins(groups),
        _too_long(groups, tokens, max_length) if tokens and max_length else None,
    )


def _shared_prompts(data: Data) -> dict[str, int]:
    """Prompts whose words training and test groups have, one of each, and how many groups have them."""
    train, test = (Counter(g.prompt_words for g in groups) for groups in (data.train, data.test))
    read = {g.prompt_words: content(g.prompt) for g in data.test}
    return {read[words]: count for words, count in _of_both(train, test).items()}


def _shared_responses(data: Data) -> dict[str, int]:
    """The keys of responses that training and test groups have, and how many groups have each."""

    def names(groups: Iterable[Group]) -> Counter[str]:
        return Counter(name for g in groups for name in dict.fromkeys(map(key, g.responses)))

    return _of_both(names(data.train), names(data.test))


def _of_both(train: Counter[str], test: Counter[str]) -> dict[str, int]:
    """What is in both, with its counts, the most first."""
    return {name: count for name, count in (train + test).most_common() if train[name] and test[name]}


def _longer_wins(groups: Iterable[Group]) -> Share:
    lengths = (
        [len(content(g.responses[i])) for i in (c.better, c.worse)] for g in groups for c in g.comparisons if not c.tied
    )
    differ = [(better, worse) for better, worse in lengths if better != worse]
    return Share(len(differ), sum(better > worse for better, worse in differ))


def _first_wins(groups: Iterable[Group]) -> Share:
    found = [c.better == 0 for g in groups if len(g.responses) == 2 for c in g.comparisons if not c.tied]
    return Share(len(found), sum(found))


def _too_long(groups: Sequence[Group], tokens: Tokens, max_length: int) -> Share:
    lengths = {key(g.prompt, r): (g.prompt, r) for g in groups for r in g.responses}
    over = sum(tokens(*texts) > max_length for texts in lengths.values())
    if over == len(lengths):
        raise DataError(f"every response is longer than {max_length} tokens with its prompt, so none is useful")
    return Share(len(lengths), over)


def _circles(groups: Iterable[Group]) -> tuple[int, int, Share]:
    """Contradictions; prompts with a circle; and comparisons that lie in one, of all that contradict no other."""
    ordered: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for g in groups:
        for c in g.comparisons:
            if not c.tied:
                ordered[key(g.prompt)].add((key(g.responses[c.better]), key(g.responses[c.worse])))
    contradictions = circles = within = count = 0
    for edges in ordered.values():
        consistent = {(a, b) for a, b in edges if (b, a) not in edges}
        contradictions += (len(edges) - len(consistent)) // 2
        found = _in_a_circle(consistent)
        circles, within, count = circles + (found > 0), within + found, count + len(consistent)
    return contradictions, circles, Share(count, within)


def _in_a_circle(edges: Iterable[tuple[str, str]]) -> int:
    """Edges whose ends reach one another: those within a strongly connected component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = list(edges)
    place = {name: i for i, name in enumerate(sorted({end for edge in edges for end in edge}))}
    if len(place) < 3:
        return 0
    rows, columns = zip(*((place[a], place[b]) for a, b in edges), strict=True)
    graph = coo_array(([1] * len(edges), (rows, columns)), shape=(len(place), len(place)))
    _, component = connected_components(graph, directed=True, connection="strong")
    return sum(int(component[a] == component[b]) for a, b in zip(rows, columns, strict=True))
