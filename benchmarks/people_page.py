"""The page docs/benchmarks/people_parts.md: models with paired differences to stock TRL. It trains nothing."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import trl
from paired_units import Estimate, Numbers, over_units, right

from rlhf_plugins import ScoredPairs, component
from rlhf_plugins.report.machine import hardware

TODAY, STOCK = "today's settings", "stock TRL RewardTrainer"
SOUGHT = 0.83
COLUMNS = ("model", "seeds", "accuracy", "minus stock", "minus today's", "ECE", "training, s", "scoring, ms", "MiB")
SMALL = ("model", "accuracy", "minus stock", "ECE", "training, s")


class Found(NamedTuple):
    """A row's numbers: r_better - r_worse of all tested pairs, and means over its trainings."""

    gaps: Numbers  # (seeds, pairs)
    training: float = 0.0  # CPU seconds of a half's model
    scoring: float = 0.0  # CPU milliseconds a response
    mebibytes: float = 0.0


class Arguments(NamedTuple):
    """The rows on arguments, of which `STOCK` and `TODAY` are two, on the halves that all of them have."""

    rows: Mapping[str, Found]
    topics: Sequence[str]  # of every tested pair
    rest: Mapping[str, float]  # accuracies on the other halves, of the rows that have them


def page(arguments: Arguments, heads: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page; `heads` has by data set what `people_heads.measured` gave."""
    rows, topics, rest = arguments
    others = ", ".join(f"{name} {value:.3f}" for name, value in rest.items())
    unfinished = f" On the other half, which not all rows have, it is so far: {others}." if rest else ""
    machine = hardware(None)
    where = f"{machine.cores} cores ({machine.cpu}), one of them used, Python {platform.python_version()}"
    lines = [
        "# Which parts help on people's data",
        "",
        f"`python benchmarks/people_parts.py FOLDER` with all-MiniLM-L6-v2 on {where}, torch {torch.__version__}, TRL "
        f"{trl.__version__}. Intervals are of 95%; differences are of the same pairs, and resample topics, not "
        "seeds; they are not corrected for their number.",
        "",
        "## Arguments: whole debates held out",
        "",
        WORDS["arguments"].format(pairs=len(topics), topics=len(set(topics)), rest=unfinished),
        "",
        *table(rows, codes(topics)),
        "",
        verdict(rows, codes(topics)),
        "",
        WORDS["held out"],
        "",
        "## Ratings, rankings and dialogues: heads on frozen features",
        "",
        WORDS["heads"],
    ]
    for name, one in heads.items():
        lines += ["", f"### {name.capitalize()}", "", *small_table(one)]
    return "\n".join(lines) + "\n"


def codes(units: Sequence[Any]) -> Any:
    """A number for each unit, in the order in which they come first: (pairs,)."""
    number = {unit: n for n, unit in enumerate(dict.fromkeys(units))}
    return np.array([number[unit] for unit in units])


def table(rows: Mapping[str, Found], units: Any) -> list[str]:
    """A line for each model."""
    return [*_head(COLUMNS), *(_line(name, row, rows, units) for name, row in rows.items())]


def _line(name: str, row: Found, rows: Mapping[str, Found], units: Any) -> str:
    won = right(row.gaps)
    against = [
        "-" if name == other else shown(over_units(won - right(rows[other].gaps), units)) for other in (STOCK, TODAY)
    ]
    trained = row.training > 0
    cost = [f"{row.training:.0f}", f"{row.scoring:.0f}", f"{row.mebibytes:.0f}"] if trained else ["-"] * 3
    ece = f"{calibration(row.gaps):.3f}" if trained else "-"
    seeds = str(len(row.gaps)) if trained else "-"
    return _cells(name, seeds, _accuracy(over_units(won, units)), *against, ece, *cost)


def small_table(one: Mapping[str, Any]) -> list[str]:
    """A line for each head of a data set, whose first row of stock TRL is what the others are compared with."""
    units = codes(one["units"])
    gaps = {name: np.array(row["gaps"])[None] for name, row in one["rows"].items()}
    stock = next(name for name in gaps if name.startswith("stock"))
    lines = _head(SMALL)
    for name, each in gaps.items():
        won, seconds = right(each), one["rows"][name]["seconds"]
        against = "-" if name == stock else shown(over_units(won - right(gaps[stock]), units))
        cost = (f"{calibration(each):.3f}", f"{seconds:.0f}") if seconds else ("-", "-")
        lines.append(_cells(name, _accuracy(over_units(won, units)), against, *cost))
    pairs = f"{len(units)} pairs in {len(set(one['units']))} units that are held out whole and resampled"
    return [*lines, "", f"{pairs}; the features took {one['features']:.0f} s."]


def calibration(gaps: Numbers) -> float:
    """ECE of sigmoid(gap) as the probability of the label, (seeds, pairs)."""
    flat, nothing = gaps.ravel(), np.zeros(gaps.size)
    return float(component("metric", "calibration")(ScoredPairs(flat, nothing, nothing, nothing))["calibration_ece"])


def verdict(rows: Mapping[str, Found], units: Any) -> str:
    """Which models are clear of stock TRL and of today's settings, and which reach what was sought."""
    wins = {name: right(row.gaps) for name, row in rows.items() if row.training}
    parts = []
    for other in (STOCK, TODAY):
        gained = {name: over_units(won - wins[other], units) for name, won in wins.items() if name != other}
        above = ", ".join(f"{name} ({g.mean:+.3f})" for name, g in gained.items() if g.low > 0) or "none"
        below = ", ".join(f"{name} ({g.mean:+.3f})" for name, g in gained.items() if g.high < 0) or "none"
        parts.append(f"Above {other}, with an interval clear of 0: {above}. Below it: {below}.")
    reached = ", ".join(f"{name} ({won.mean():.3f})" for name, won in wins.items() if won.mean() >= SOUGHT)
    seeds = ", ".join(f"{float((gaps > 0).mean()):.3f}" for gaps in rows[TODAY].gaps)
    noise = f"Of today's settings alone the seeds are at {seeds}, so that a difference of that size may be chance."
    return " ".join([*parts, f"At or above {SOUGHT:.2f}: {reached or 'none'}.", noise])


def shown(found: Estimate) -> str:
    """A difference with its interval, bold where that is clear of 0."""
    words = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
    return f"**{words}**" if found.clear else words


def _accuracy(found: Estimate) -> str:
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"


def _head(columns: Sequence[str]) -> list[str]:
    return [_cells(*columns), "|" + "---|" * len(columns)]


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


WORDS = {
    "arguments": "The debates of UKPConvArg1 that are here are dealt to two halves, and a half is scored by models "
    "that learned from the other alone: {pairs} strict pairs in {topics} topics are tested.{rest} Every "
    "model learns from the same half of the training debates' pairs. Stock TRL has its defaults but for "
    "one epoch (it computes an argument again in each of its pairs, which is its cost) and batches of "
    "pairs of like length. Our rows differ from [today's settings](reward_arguments.md) in one part, each "
    "with its default; all pairs of a topic are one batch, for four epochs. The rows on the crowd's votes "
    "and on ties also learn from the pairs of the same topics that the authors left out as unclear. Cost "
    "is the CPU time of one training, that of scoring one argument, and the peak memory above what the "
    "libraries take; an ensemble costs what its members do, and a distilled model also what its teachers "
    "cost.",
    "held out": "Are these topics that nobody tuned on? That cannot be claimed. Today's settings came out of trials "
    "on two folds of another deal of these debates; that deal was not kept, so that the topics it tested "
    "cannot be set apart. No option of any row was chosen by the numbers of this page. Stock TRL was "
    "never tuned here, so that the difference to it is, if anything, too kind to us; the differences "
    "between our own rows are not touched by this.",
    "heads": "The encoder runs once over every prompt and response. Stock TRL's RewardTrainer is given these "
    "features as a frozen table under a linear head: of the [CLS] token through the encoder's pooler, as "
    "its classifier has them, or the mean of the response's tokens times the root of its length, as all "
    "our rows have. All rows have the same epochs, learning rate and, nearly, steps; three folds, one "
    "seed. Differences are to stock on [CLS]. Ratings are compared by the readers' mean overall rating.",
}
