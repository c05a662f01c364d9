"""Thresholds of several statistics, any of which clean runs exceed at a known rate.

A run is clean or not as a whole, so the largest value of each statistic over a run is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np

from rlhf_plugins import DataError


def joint_thresholds(largest: Mapping[str, Sequence[float]], rate: float) -> dict[str, float]:
    """A threshold for each statistic, so that a fresh clean run exceeds any of them with probability `rate` at most.

    With z = (log(1 + M) - mean) / deviation of each statistic's maximum M, and J = max z over the statistics, the
    limit on J is the ceil((n + 1) (1 - rate))-th smallest of n clean runs (conformal prediction, Vovk et al. 2005; max
    statistic, Westfall and Young 1993). The mean and deviation that a clean run is compared with are those of the
    others, as a fresh run is compared with runs that it is none of (jackknife); simulation finds the rate kept.

    Args:
        largest: by statistic, its maximum over each clean run, all of one length n.
        rate: the rate of runs that alarm.

    Raises:
        DataError: there are too few runs for the rate, or fewer than three, or a maximum is not finite.
    """
    logs = np.log1p(np.array(list(largest.values()), dtype=float))  # (statistics, n)
    count = logs.shape[1]
    if not np.isfinite(logs).all():
        raise DataError("a statistic of a clean run is not a finite number of at least 0")
    place = ceil((count + 1) * (1 - rate))
    if place > count:
        raise DataError(f"{count} clean runs can promise a rate of {1 / (count + 1):.3g}, not {rate:g}")
    if count < 3:
        raise DataError("each clean run is compared with the others, which differ: give three or more")
    centre, spread = logs.mean(1), np.maximum(logs.std(1), 1e-6)
    others = [np.delete(logs, place, 1) for place in range(count)]
    joint = np.array(
        [((logs[:, i] - rest.mean(1)) / np.maximum(rest.std(1), 1e-6)).max() for i, rest in enumerate(others)]
    )
    limit = np.sort(joint)[place - 1]
    return {name: float(np.expm1(c + limit * s)) for name, c, s in zip(largest, centre, spread, strict=True)}
