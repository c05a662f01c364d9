"""How gold changes from one task to another under one algorithm: what noise costs, what a few examples give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlhf_bench.intervals import Estimate, estimate
from rlhf_bench.judges import GOLD
from rlhf_bench.markup import Table, shown
from rlhf_bench.measures import Row
from rlhf_bench.suite import Suite

ABOUT = (
    "{} on the task less {} on the task that it is read against, on the same prompts and seeds: 0 is robust. A dash: "
    "not on the same prompts, or not run. Intervals are not corrected for their number."
)


@dataclass(frozen=True)
class Change:
    """Gold on a task less gold on the one that it is read against."""

    task: str
    against: str
    algorithm: str
    change: Estimate

    def record(self) -> Row:
        """Returns the fields as a dictionary that JSON can hold."""
        return {**asdict(self), "change": self.change._asdict()}


def changes(suite: Suite, rows: Sequence[Row]) -> list[Change]:
    """One per task with `against` and algorithm, over the seeds that ran on both with the same held-out prompts."""
    by_cell = {(row["task"], row["algorithm"], row["seed"]): row for row in rows if row["status"] == "finished"}
    found = []
    for task, against in suite.against.items():
        for algorithm in suite.algorithms:
            pairs = [(by_cell.get((task, algorithm, s)), by_cell.get((against, algorithm, s))) for s in suite.seeds]
            same = [(own, other) for own, other in pairs if own and other and own["prompts"] == other["prompts"]]
            if same:
                change = estimate([np.subtract(own["scores"], other["scores"]) for own, other in same])
                found.append(Change(task, against, algorithm, change))
    return found


def table(suite: Suite, found: Sequence[Change], score: str = GOLD) -> Table | None:
    """A row per task; None where no task is read against another."""
    if not found:
        return None
    by_name: dict[Any, Estimate] = {(one.task, one.algorithm): one.change for one in found}
    rows = [
        [task, against, *(shown(by_name.get((task, name)), sign="+") for name in suite.algorithms)]
        for task, against in suite.against.items()
    ]
    return Table(
        "From task to task", ABOUT.format(score.capitalize(), score), ["task", "against", *suite.algorithms], rows
    )
