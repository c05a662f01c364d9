"""Reward against KL as an algorithm's knob varies: the area under the frontier, and how far gold varies with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_bench.judges import GOLD
from rlhf_bench.markup import Table
from rlhf_bench.suite import BASE, Suite
from rlhf_bench.table import Line

Point = tuple[float, float]  # KL, gold


@dataclass(frozen=True)
class Frontier:
    """What an algorithm reaches on a task over the values of its knob."""

    task: str
    algorithm: str
    points: Sequence[Point]  # by value of the knob
    area: float  # mean gold over KL from 0 to `up_to`, of the best setting within each KL
    up_to: float  # nats: the least over algorithms of the furthest that each went
    sensitivity: float  # highest less lowest gold over the values
    best: float  # the value with the highest gold


def frontiers(suite: Suite, lines: Sequence[Line]) -> list[Frontier]:
    """One per task and algorithm with a knob; none where a task's base, or all KLs of an algorithm, are missing."""
    found = []
    for task in suite.tasks:
        mine = {line.algorithm: line for line in lines if line.task == task}
        swept: dict[str, dict[float, Point]] = {}
        for label, (name, value) in suite.knobs.items():
            kl = mine[label].means["kl"] if label in mine else None
            if kl is not None:
                swept.setdefault(name, {})[value] = (max(kl, 0.0), mine[label].gold.mean)
        if BASE in mine and swept:
            found += _of_task(task, mine[BASE].gold.mean, swept)
    return found


def _of_task(task: str, base: float, swept: Mapping[str, Mapping[float, Point]]) -> list[Frontier]:
    up_to = min(max(kl for kl, _ in points.values()) for points in swept.values())
    return [
        Frontier(
            task,
            name,
            list(points.values()),
            area(base, list(points.values()), up_to),
            up_to,
            max(gold for _, gold in points.values()) - min(gold for _, gold in points.values()),
            max(points, key=lambda value: points[value][1]),
        )
        for name, points in swept.items()
    ]


def area(base: float, points: Sequence[Point], up_to: float) -> float:
    """Mean gold over KL in [0, up_to], of the best of all settings within each KL, the base at KL 0 among them.

    Between two settings it is linear, after the last one it stays; at up_to = 0 it is the base's gold.
    """
    if up_to <= 0:
        return base
    kl, gold = (np.array(column) for column in zip(*sorted([(0.0, base), *points]), strict=True))
    best = np.maximum.accumulate(gold)
    at = np.unique([*kl[kl < up_to], up_to])
    return float(np.trapezoid(np.interp(at, kl, best), at) / up_to)


def table(found: Sequence[Frontier], score: str = GOLD) -> Table | None:
    """None where no algorithm has a knob."""
    if not found:
        return None
    rows = [
        [f.task, f.algorithm, f"{f.area:.2f}", f"{f.up_to:.2f}", f"{f.sensitivity:.2f}", f"{f.best:g}"] for f in found
    ]
    header = (
        "task",
        "algorithm",
        "area under the frontier",
        "up to KL",
        f"{score.split()[0]}, highest less lowest",
        "best value",
    )
    about = (
        f"The area is the mean {score} over KL from 0 to the least of the furthest KLs, of the best setting within "
        "each KL. It has no interval: settings, not seeds, make a frontier."
    )
    return Table("Frontiers", about, header, rows)
