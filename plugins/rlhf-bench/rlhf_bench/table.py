"""The rows of a suite as one table: means with intervals, differences from the baseline, and notes for its reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rlhf_bench import judges
from rlhf_bench.intervals import Estimate, estimate, resampled
from rlhf_bench.measures import Row
from rlhf_bench.suite import BASE, Suite
from rlhf_plugins import holm

EQUAL = 0.1  # the part of a budget by which runs may miss it and still be at equal compute
SIGNIFICANT = 0.05
OF_EACH = (
    "{}: a prompt was computed, and its FLOPs counted, for each response that was sampled to it. Since 29 November "
    "2026 it is computed once for all of them, and an online stage takes some more steps with the same FLOPs."
)
TASK = "task: "  # before the name of a task of the evaluation, among the means


@dataclass(frozen=True)
class Line:
    """An algorithm on a task, over seeds."""

    task: str
    algorithm: str
    seeds: tuple[int, ...]  # the seeds whose runs finished
    gold: Estimate
    gain: Estimate | None  # over the baseline, on the same prompts and seeds; None for the baseline itself
    p: float | None  # p value of the gain, corrected for all comparisons of the suite
    spread: float | None  # standard deviation of the mean over seeds
    means: dict[str, float | None]  # measure -> its mean over seeds
    wins: Estimate | None = None  # share of prompts won over the baseline, a draw by half; p of 1/2, corrected
    rating: Estimate | None = None  # by people, over prompts

    def record(self) -> Row:
        """Returns the fields as a dictionary that JSON can hold."""
        estimates = {name: getattr(self, name) for name in ("gold", "gain", "wins", "rating")}
        return {**asdict(self), **{name: value and value._asdict() for name, value in estimates.items()}}


MEANS = (
    "kl", "out_of_distribution", "win_rate", "normalised", "length", "distinct_1", "distinct_2", "perplexity", "flops",
    "seconds", "spent", "trained_tokens", "generated_tokens", "tokens_per_second", "reward_calls", "peak_bytes",
)  # fmt: skip
OF_ALL = ("converged_step", "converged_seconds")  # which have a mean only where every seed has them


def lines(suite: Suite, rows: Sequence[Row]) -> list[Line]:
    """A line per task and algorithm, the untrained base first where it is the baseline."""
    found = [line for task in suite.tasks for line in _of_task(suite, task, rows)]
    of_gains = holm({(line.task, line.algorithm): line.gain and line.gain.p for line in found})
    of_wins = holm({(line.task, line.algorithm): line.wins and line.wins.p for line in found})
    return [
        replace(line, p=of_gains[who], wins=line.wins and line.wins._replace(p=of_wins[who]))
        for line in found
        if (who := (line.task, line.algorithm))
    ]


def _of_task(suite: Suite, task: str, rows: Sequence[Row]) -> Iterator[Line]:
    mine = [row for row in rows if row["task"] == task and row["status"] == "finished"]
    by_seed = {(row["algorithm"], row["seed"]): row for row in mine}
    base = {row["seed"]: row[BASE] for row in mine}
    if base:
        scores, none = list(base.values()), dict.fromkeys((*MEANS, *OF_ALL))
        yield Line(task, BASE, tuple(base), estimate(scores), None, None, _spread(scores), none)
    for algorithm in suite.algorithms:
        own = {seed: row for (name, seed), row in by_seed.items() if name == algorithm}
        if not own:
            continue
        gains = [
            np.subtract(row["scores"], other)
            for seed, row in own.items()
            if (other := _beside(row, suite.baseline, by_seed.get((suite.baseline, seed)))) is not None
        ]
        scores = [row["scores"] for row in own.values()]
        yield Line(
            task,
            algorithm,
            tuple(own),
            estimate(scores),
            estimate(gains) if gains else None,
            None,
            _spread(scores),
            _means(list(own.values())),
            won(gains) if gains else None,
            _rated([row["ratings"] for row in own.values()]),
        )


def _beside(row: Row, baseline: str, other: Row | None) -> list[float] | None:
    """The baseline's scores on the prompts of a run; None of the baseline itself, and where its own prompts differ."""
    if baseline == BASE:
        return row[BASE]
    alike = other is not None and row["algorithm"] != baseline and row["prompts"] == other["prompts"]
    return other["scores"] if other and alike else None


def _means(rows: Sequence[Row]) -> dict[str, float | None]:
    """Over seeds, of every measure, of the gold reward's dimensions and of the evaluation's tasks."""
    means = {key: _mean([row[key] for row in rows]) for key in MEANS}
    parts = {"": "dimensions", TASK: "tasks"}
    named = {prefix + name: (key, name) for prefix, key in parts.items() for name in rows[0][key] or {}}
    means |= {label: _mean([row[key].get(name) for row in rows]) for label, (key, name) in named.items()}
    return means | _between_seeds(rows)


def _between_seeds(rows: Sequence[Row]) -> dict[str, float | None]:
    """What a mean over seeds would hide: the least and the most of the budget, and how many curves rose."""
    spent = [float(row["spent"]) for row in rows if row["spent"] is not None]
    rose = [row for row in rows if row["converged_step"] is not None]
    of_all = {key: _mean([row[key] for row in rows]) if len(rose) == len(rows) else None for key in OF_ALL}
    ends = {"least_spent": min(spent, default=None), "most_spent": max(spent, default=None)}
    return {**ends, **of_all, "converged_seeds": float(len(rose))}


def won(gains: Sequence[Any]) -> Estimate:
    """The share of prompts with a gain above 0, one of 0 counted by half; its p is that of 1/2."""
    found = estimate([np.sign(gain) / 2 for gain in gains])
    low, high = (None if end is None else float(np.clip(end + 0.5, 0, 1)) for end in (found.low, found.high))
    return Estimate(found.mean + 0.5, low, high, found.p)


def _rated(by_seed: Sequence[Mapping[str, float]]) -> Estimate | None:
    """People's ratings, of each prompt the mean over the runs that were rated on it."""
    prompts = sorted({prompt for rated in by_seed for prompt in rated})
    means = [float(np.mean([rated[prompt] for rated in by_seed if prompt in rated])) for prompt in prompts]
    return resampled(means)._replace(p=None) if means else None  # a mean rating is compared with nothing


def notes(suite: Suite, rows: Sequence[Row], found: Sequence[Line]) -> list[str]:
    """What a reader of the table must know, one sentence each."""
    said = []
    if len(suite.seeds) == 1:
        said.append("One seed says nothing of how much seeds differ: there are no intervals and no p-values.")
    for status in ("failed", "interrupted", "running", "missing"):
        alike: dict[tuple[str, ...], list[str]] = {}
        for row in rows:
            if row["status"] == status:
                why = f": {row['message']}" if row.get("message") else ""
                alike.setdefault((row["task"], row["algorithm"], why), []).append(str(row["seed"]))
        said += [
            f"{task}, {name}, seed {', '.join(seeds)}: {status}{why}" for (task, name, why), seeds in alike.items()
        ]
    for task in suite.tasks:
        mine = {line.algorithm for line in found if line.task == task}
        if suite.baseline not in mine:
            said.append(f"{task}: the baseline {suite.baseline} has no finished run, so that there are no gains.")
    by_run = {(row["task"], row["algorithm"], row["seed"]): row for row in rows if row["status"] == "finished"}
    for (task, name, seed), row in by_run.items():
        other = by_run.get((task, suite.baseline, seed))
        if other and _beside(row, suite.baseline, other) is None and name != suite.baseline:
            said.append(f"{task}, {name}, seed {seed}: no gain, other prompts have a score than those of the baseline.")
    said += [*_unequal(by_run), *_counted(list(by_run.values()))]
    if any(line.rating for line in found):
        said.append("Human ratings are means over prompts, with the wider interval of a bootstrap and of Student's.")
    said += [*judges.notes(list(by_run.values())), *judges.over_optimised(found, TASK + judges.WINS)]
    return [*said, *_versions(list(by_run.values()))]


def _unequal(by_run: Mapping[tuple[str, str, int], Row]) -> list[str]:
    """The runs of an algorithm on a task that did not use its budget, or used more."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for (task, name, seed), row in by_run.items():
        if row["spent"] is not None and abs(row["spent"] - 1) > EQUAL:
            found.setdefault((task, name), {})[seed] = f"{100 * row['spent']:.0f}%"
    ending = "of the budget, not equal compute"
    return [
        f"{task}, {name}, seed {', '.join(map(str, of))}: used {', '.join(of.values())} {ending}."
        for (task, name), of in found.items()
    ]


def _counted(rows: Sequence[Row]) -> list[str]:
    """Which algorithms sampled in training with a prompt computed for each of its responses, as older versions did."""
    names = dict.fromkeys(row["algorithm"] for row in rows if row["generated_tokens"] and not row.get("prompts_once"))
    return [OF_EACH.format(", ".join(names))] * bool(names)


def _versions(rows: Sequence[Row]) -> list[str]:
    """What has not the same version in all runs."""
    names = sorted({name for row in rows for name in row["versions"]})
    seen = {name: sorted({str(row["versions"].get(name, "none")) for row in rows}) for name in names}
    differ = [f"{name} {' and '.join(of)}" for name, of in seen.items() if len(of) > 1]
    return [f"Runs were made with other versions: {'; '.join(differ)}."] if differ else []


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
