"""A number by group, with intervals, and whether the worst group is worse than chance makes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_plugins import DataError, wilson_interval
from rlhf_watch.ab.paired import Interval, Numbers, at_once, mean_interval

RESAMPLES = 4999


@dataclass(frozen=True)
class Group:
    """The mean of one group with its 95% interval, and the gap to the mean of all others."""

    name: str
    rows: int
    mean: float
    interval: Interval
    gap: float


@dataclass(frozen=True)
class Groups:
    """All groups, the worst first.

    Args:
        groups: by their mean.
        behind: the group that is behind the others by the most standard errors; a small one may have a lower mean.
        p: the probability that a group falls as far behind, in standard errors, when groups are drawn at random.
    """

    groups: tuple[Group, ...]
    behind: Group
    p: float


def by_group(names: Sequence[str], values: Sequence[float], seed: int = 0) -> Groups:
    """Compares groups; shares (0, 1/2 and 1) have Wilson's interval, other numbers that of `mean_interval`.

    The test permutes the rows and looks at the largest shortfall of any group, so that it may pick the worst one
    (Westfall and Young 1993). Raises DataError for fewer than two groups, and for numbers that are not finite.
    """
    numbers, labels = np.asarray(values, dtype=float), np.asarray(names, dtype=str)
    known, codes = np.unique(labels, return_inverse=True)
    if len(known) < 2 or not np.isfinite(numbers).all():
        raise DataError(f"two groups of finite numbers are needed, got {len(known)}")
    shifted = numbers - numbers[0]  # so that equal numbers are 0, and no rounding of theirs is a shortfall
    member = (codes[None] == np.arange(len(known))[:, None]).astype(float)  # (groups, rows)
    observed = _shortfalls(member, shifted[None])[0]
    beyond = (_largest_by_chance(member, shifted, seed) >= observed.max() - 1e-12).sum()
    found = []
    for place, name in enumerate(known):
        inside = numbers[codes == place]
        gap = float(inside.mean() - numbers[codes != place].mean())
        found.append(Group(str(name), len(inside), float(inside.mean()), _interval(inside, seed), gap))
    p = float((1 + beyond) / (1 + RESAMPLES))
    return Groups(tuple(sorted(found, key=lambda one: one.mean)), found[int(observed.argmax())], p)


def _shortfalls(member: Numbers, values: Numbers) -> Numbers:
    """(resamples, groups) by how many standard errors each group is below the mean of all."""
    counts = member.sum(1)
    means = values @ member.T / counts
    spread = np.maximum(values.std(1, keepdims=True), 1e-12)
    found: Numbers = (values.mean(1, keepdims=True) - means) / (spread / np.sqrt(counts))
    return found


def _largest_by_chance(member: Numbers, numbers: Numbers, seed: int) -> Numbers:
    """(RESAMPLES,) the largest shortfall of any group, rows drawn into groups at random."""
    rng, step = np.random.default_rng(seed), at_once(len(numbers))
    found = []
    for start in range(0, RESAMPLES, step):
        rows = np.tile(numbers, (min(step, RESAMPLES - start), 1))
        found.append(_shortfalls(member, rng.permuted(rows, axis=1)).max(1))
    return np.concatenate(found)


def _interval(values: Numbers, seed: int) -> Interval:
    if np.isin(values, (0.0, 0.5, 1.0)).all():
        return Interval(*wilson_interval(float(values.mean()), len(values)))
    return mean_interval(values, seed)


def wins(rewards: Sequence[Sequence[float]]) -> list[float]:
    """1 where the first response of a row, the chosen one, has the larger reward; 1/2 at a tie."""
    found: list[Any] = [0.5 if pair[0] == pair[1] else float(pair[0] > pair[1]) for pair in rewards]
    return found
