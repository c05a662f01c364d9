"""Dawid and Skene 1979: the labels that explain the votes best, together with how each person errs.

EM over the true label t_i of each item, the prior p_k of labels, and each person's confusion c_j[k, l], the share of
items of label k that person j calls l:
    E: q_i[k] ~ p_k prod over votes (j, l) on i of c_j[k, l]
    M: p_k = mean over i of q_i[k],  c_j[k, l] ~ (sum over votes (j, l) on i of q_i[k]) + smoothing
It starts from the shares of the votes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rlhf_collect.aggregate.votes import Question, Verdict, Vote, by_question, counts

Numbers: TypeAlias = npt.NDArray[np.float64]
Places: TypeAlias = npt.NDArray[np.int64]
LEAST = 1e-12  # a probability whose logarithm is taken


@dataclass(frozen=True)
class Fitted:
    """The result: rows in the order of `items` and `persons`, columns in that of `labels`."""

    items: Sequence[Question]
    persons: Sequence[int]
    labels: Sequence[str]
    posterior: Numbers  # (items, labels)
    prior: Numbers  # (labels,)
    confusion: Numbers  # (persons, labels, labels)

    @property
    def ability(self) -> Mapping[int, float]:
        """How often each person is right about an item drawn from the prior."""
        right = np.einsum("k,jkk->j", self.prior, self.confusion)
        return dict(zip(self.persons, right.tolist(), strict=True))


def fit(votes: Sequence[Vote], smoothing: float = 1.0, steps: int = 500, tolerance: float = 1e-10) -> Fitted:
    """Runs EM until no posterior changes by more than the tolerance.

    Args:
        votes: at least one; a person may have several on an item.
        smoothing: imaginary votes for each cell of each confusion, shared out so that three quarters are right; 0 is
            the estimate of the paper.
        steps: most iterations.
        tolerance: change at which it ends.
    """
    items, persons = list(dict.fromkeys(v.question for v in votes)), sorted({v.person for v in votes})
    labels = sorted({v.label for v in votes})
    who, what, which = (
        _places(names, [getattr(vote, field) for vote in votes])
        for names, field in ((items, "question"), (persons, "person"), (labels, "label"))
    )
    sizes = len(items), len(persons), len(labels)
    posterior = np.zeros((sizes[0], sizes[2]))
    np.add.at(posterior, (who, which), 1.0)
    posterior /= posterior.sum(1, keepdims=True)
    imagined = smoothing * _imagined(sizes[2])
    for _ in range(steps):
        prior = posterior.mean(0)
        confusion = _confusion(posterior[who], what, which, sizes, imagined)
        before, posterior = posterior, _posterior(prior, confusion, (who, what, which), sizes[0])
        if np.abs(posterior - before).max() < tolerance:
            break
    return Fitted(items, persons, labels, posterior, prior, confusion)


def _places(names: Sequence[Any], values: Sequence[Any]) -> Places:
    place = {name: n for n, name in enumerate(names)}
    return np.array([place[value] for value in values])


def dawid_skene(votes: Sequence[Vote]) -> dict[Question, Verdict]:
    """For each question the most likely label; undecided where two are as likely. The weight is p_1 - p_2."""
    if not votes:
        return {}
    fitted, given = fit(votes), by_question(votes)
    return {
        item: _verdict(dict(zip(fitted.labels, row.tolist(), strict=True)), given[item])
        for item, row in zip(fitted.items, fitted.posterior, strict=True)
    }


def _verdict(likely: Mapping[str, float], votes: list[Vote]) -> Verdict:
    ordered = sorted(likely, key=lambda label: -likely[label])
    lead = likely[ordered[0]] - likely[ordered[1]] if len(ordered) > 1 else 1.0
    decided = lead > 1e-9
    share = (counts(votes)[ordered[0]] if decided else max(counts(votes).values())) / len(votes)
    return Verdict(ordered[0] if decided else None, likely, share, lead if decided else 0.0)


def _imagined(labels: int) -> Numbers:
    """(labels, labels): rows sum to `labels`, with three quarters on the diagonal."""
    if labels == 1:
        return np.ones((1, 1))
    off = 0.25 * labels / (labels - 1)
    return np.full((labels, labels), off) + np.eye(labels) * (0.75 * labels - off)


def _confusion(likely: Numbers, what: Places, which: Places, sizes: tuple[int, int, int], imagined: Numbers) -> Numbers:
    seen = np.zeros((sizes[1], sizes[2], sizes[2])) + imagined
    np.add.at(seen.transpose(0, 2, 1), (what, which), likely)
    return seen / np.maximum(seen.sum(2, keepdims=True), LEAST)


def _posterior(prior: Numbers, confusion: Numbers, votes: tuple[Places, Places, Places], items: int) -> Numbers:
    who, what, which = votes
    logs = np.tile(np.log(np.maximum(prior, LEAST)), (items, 1))
    np.add.at(logs, who, np.log(np.maximum(confusion, LEAST)).transpose(0, 2, 1)[what, which])
    likely = np.exp(logs - logs.max(1, keepdims=True))
    normal: Numbers = likely / likely.sum(1, keepdims=True)
    return normal
