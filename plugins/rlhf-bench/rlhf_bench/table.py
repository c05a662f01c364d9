"""The rows of a suite as one table: means with intervals, differences from the baseline, and notes for its reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlhf_bench.intervals import Estimate, estimate, holm
from rlhf_bench.measures import Row
from rlhf_bench.suite import BASE, Suite

EQUAL = 0.1  # the part of a budget by which runs may miss it and still be at equal compute
SIGNIFICANT = 0.05
GOLD = "gold reward"  # what the stage `evaluate` calls the true reward


@dataclass(frozen=True)
class Line:
    """An algorithm on a task, over seeds."""

    task: str
    algorithm: str
    seeds: tuple[int, ...]  # that finished
    gold: Estimate
    gain: Estimate | None  # over the baseline, on the same prompts and seeds; None for the baseline itself
    p: float | None  # of the gain, corrected for all comparisons of the suite
    spread: float | None  # standard deviation of the mean over seeds
    means: dict[str, float | None]  # of everything else

    def record(self) -> Row:
        """As JSON."""
        return {**asdict(self), "gold": self.gold._asdict(), "gain": self.gain and self.gain._asdict()}


MEANS = (
    "kl", "out_of_distribution", "win_rate", "normalised", "length", "distinct_2", "flops", "seconds", "spent",
    "trained_tokens", "generated_tokens", "reward_calls", "peak_bytes", "converged_step", "converged_seconds",
)  # fmt: skip


def lines(suite: Suite, rows: Sequence[Row]) -> list[Line]:
    """A line per task and algorithm, the untrained base first where it is the baseline."""
    found = [line for task in suite.tasks for line in _of_task(suite, task, rows)]
    corrected = holm({(line.task, line.algorithm): line.gain and line.gain.p for line in found})
    return [Line(**{**vars(line), "p": corrected[line.task, line.algorithm]}) for line in found]


def _of_task(suite: Suite, task: str, rows: Sequence[Row]) -> Iterator[Line]:
    mine = [row for row in rows if row["task"] == task and row["status"] == "finished"]
    by_seed = {(row["algorithm"], row["seed"]): row for row in mine}
    base = {row["seed"]: row[BASE] for row in mine}
    if base:
        gold = estimate(list(base.values()))
        yield Line(task, BASE, tuple(base), gold, None, None, _spread(list(base.values())), dict.fromkeys(MEANS))
    for algorithm in suite.algorithms:
        own = {seed: row for (name, seed), row in by_seed.items() if name == algorithm}
        if not own:
            continue
        others = (
            base if suite.baseline == BASE else {s: r["scores"] for (a, s), r in by_seed.items() if a == suite.baseline}
        )
        scores = {seed: row["scores"] for seed, row in own.items()}
        shared = [seed for seed in scores if seed in others]
        gain = estimate([np.subtract(scores[s], others[s]) for s in shared]) if shared else None
        means = {key: _mean([row[key] for row in own.values()]) for key in MEANS}
        of = (tuple(own), estimate(list(scores.values())), None if algorithm == suite.baseline else gain, None)
        yield Line(task, algorithm, *of, _spread(list(scores.values())), means)


def notes(suite: Suite, rows: Sequence[Row], found: Sequence[Line]) -> list[str]:
    """What a reader of the table must know, one sentence each."""
    said = []
    if len(suite.seeds) == 1:
        said.append("One seed says nothing of how much seeds differ: there are no intervals and no p-values.")
    for status in ("failed", "interrupted", "running", "missing"):
        for row in rows:
            if row["status"] == status:
                why = f": {row['message']}" if row.get("message") else ""
                said.append(f"{row['task']}, {row['algorithm']}, seed {row['seed']}: {status}{why}")
    for task in suite.tasks:
        mine = {line.algorithm for line in found if line.task == task}
        if suite.baseline not in mine:
            said.append(f"{task}: the baseline {suite.baseline} has no finished run, so that there are no gains.")
    for line in found:
        spent = line.means["spent"]
        if spent is not None and abs(spent - 1) > EQUAL:
            said.append(f"{line.task}, {line.algorithm}: used {100 * spent:.0f}% of the budget, not equal compute.")
    judges = {row["judge"] for row in rows if row["status"] == "finished"}
    if judges - {GOLD}:
        said.append(f"Judged by {', '.join(sorted(judges))}: a reward model favours what was trained on it.")
    return said


def verdicts(suite: Suite, found: Sequence[Line]) -> list[str]:
    """Per task, which algorithms are above or below the baseline beyond what chance makes."""
    said = []
    for task in suite.tasks:
        mine = [line for line in found if line.task == task and line.p is not None and line.gain]
        clear = [line for line in mine if line.p is not None and line.p < SIGNIFICANT and line.gain and line.gain.clear]
        above = [line.algorithm for line in clear if line.gain and line.gain.mean > 0]
        below = [line.algorithm for line in clear if line.gain and line.gain.mean < 0]
        if mine:
            parts = [f"above {suite.baseline}: {', '.join(above) or 'none'}", f"below: {', '.join(below) or 'none'}"]
            corrected = f"p < {SIGNIFICANT}, corrected for {_compared(found)} comparisons"
            said.append(f"{task}: {'; '.join(parts)} ({corrected}).")
    return said


def _compared(found: Sequence[Line]) -> int:
    return sum(line.p is not None for line in found)


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(scores: Sequence[Any]) -> float | None:
    return float(np.std([np.mean(one) for one in scores], ddof=1)) if len(scores) > 1 else None
