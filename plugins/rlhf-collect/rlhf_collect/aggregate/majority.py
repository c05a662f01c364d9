"""The label with most votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlhf_collect.aggregate.votes import Question, Verdict, Vote, by_question, counts


def majority(votes: Sequence[Vote]) -> dict[Question, Verdict]:
    """For each question the label that more people gave than any other; undecided where two lead.

    The weight is (n_1 - n_2) / n: the votes of the first label less those of the second, of n in all.
    """
    return {question: _verdict(given) for question, given in by_question(votes).items()}


def divided(labels: Sequence[str], votes: int) -> bool:
    """Whether the first label leads the second by less than two votes, or than all where fewer are asked for."""
    ordered = Counter(labels).most_common(2)
    lead = ordered[0][1] - (ordered[1][1] if len(ordered) > 1 else 0)
    return lead < min(2, votes)


def _verdict(votes: list[Vote]) -> Verdict:
    counted, total = counts(votes), len(votes)
    (first, most), *others = counted.most_common()
    second = others[0][1] if others else 0
    shares = {label: count / total for label, count in sorted(counted.items())}
    return Verdict(first if most > second else None, shares, most / total, (most - second) / total)
