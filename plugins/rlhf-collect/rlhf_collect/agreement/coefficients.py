"""Coefficients of agreement: 1 where all agree, 0 where they agree as often as chance would have it.

Each is (observed - expected) / (1 - expected), or 1 - observed / expected disagreement; they differ in what chance is.
Where nothing can be expected (one category alone, no item with two labels) the answer is nan.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from rlhf_collect.agreement.counts import Counts, Numbers
from rlhf_plugins import DataError

Level: TypeAlias = Literal["nominal", "ordinal", "interval"]
Weighting: TypeAlias = Literal["plain", "linear", "quadratic"]


def cohen(table: Numbers, weighting: Weighting = "plain") -> float:
    """Cohen 1960, of two annotators' confusion; with weights |i - j| or (i - j)^2 of a disagreement, Cohen 1968."""
    places = np.arange(len(table))
    apart = np.abs(places[:, None] - places)
    weights = {"plain": (apart > 0).astype(float), "linear": apart, "quadratic": apart**2}[weighting]
    chance = np.outer(table.sum(1), table.sum(0)) / max(table.sum(), 1)
    return _lack((weights * table).sum(), (weights * chance).sum())


def fleiss(counts: Counts, times: Numbers | None = None) -> float:
    """Fleiss 1971: chance draws each label with its share of all labels. Raises DataError where items differ in labels.

    Args:
        counts: the counts of items with the same number of annotators.
        times: how often each item counts; once if left out.
    """
    table, times = counts.table, _times(counts, times)
    annotators = table.sum(1)
    if len(set(annotators)) > 1:
        raise DataError("Fleiss' kappa is of items with equally many labels; take Krippendorff's alpha")
    observed = _pairs_that_agree(table) @ times / times.sum()
    shares = times @ table / (times @ annotators)
    return _excess(observed, (shares**2).sum())


def krippendorff(counts: Counts, level: Level = "nominal", times: Numbers | None = None) -> float:
    """Krippendorff 2011: chance pairs any two labels; labels may be missing, categories be ordered or numbers."""
    table, times = counts.table, _times(counts, times)
    annotators = table.sum(1)
    paired = annotators >= 2
    each = np.where(paired, times / np.maximum(annotators - 1, 1), 0.0)
    together = (table * each[:, None]).T @ table - np.diag(each @ table)  # coincidences, (categories, categories)
    totals = together.sum(1)
    distances = _distances(counts, level, totals)
    chance = (np.outer(totals, totals) - np.diag(totals)) / max(totals.sum() - 1, 1)
    return _lack((distances * together).sum(), (distances * chance).sum())


def gwet(counts: Counts, times: Numbers | None = None) -> float:
    """AC1 of Gwet 2008: chance is small where one category is far more frequent than the others."""
    table, times = counts.table, _times(counts, times)
    annotators = table.sum(1)
    paired, labelled = annotators >= 2, annotators >= 1
    if len(counts.categories) < 2 or not paired.any():
        return float("nan")
    observed = _pairs_that_agree(table[paired]) @ times[paired] / times[paired].sum()
    shares = times[labelled] @ (table[labelled] / annotators[labelled, None]) / times[labelled].sum()
    return _excess(observed, (shares * (1 - shares)).sum() / (len(counts.categories) - 1))


def _distances(counts: Counts, level: Level, totals: Numbers) -> Numbers:
    """(categories, categories): the square of how far two categories are apart."""
    if level == "nominal":
        return 1 - np.eye(len(totals))
    if level == "interval":
        values = np.asarray(counts.categories, dtype=float)
        return (values[:, None] - values) ** 2
    below = np.cumsum(totals) - totals / 2  # labels below the middle of each category
    return (below[:, None] - below) ** 2


def _pairs_that_agree(table: Numbers) -> Numbers:
    """(items,): the share of an item's pairs of labels that are equal."""
    annotators = table.sum(1)
    return (table * (table - 1)).sum(1) / (annotators * (annotators - 1))


def _times(counts: Counts, times: Numbers | None) -> Numbers:
    return np.ones(len(counts.table)) if times is None else times


def _excess(observed: float, expected: float) -> float:
    return float((observed - expected) / (1 - expected)) if expected < 1 else float("nan")


def _lack(observed: float, expected: float) -> float:
    return float(1 - observed / expected) if expected > 0 else float("nan")
