"""Lets the selector `bandit` choose on the held-out tasks of the suite `selection`, and says what that takes.

    python -m rlhf_bench.bandits FILE.json RUNS

FILE.json gets a row for each task, seed and way of choosing as soon as it has chosen, and a row that it has is not made
again. RUNS keeps the trainings of a choice, so that one that was killed goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import yaml

from rlhf_bench.bandit import Bandit, order
from rlhf_bench.bundled import SPLIT, find
from rlhf_bench.markup import Table, markdown
from rlhf_bench.suite import Suite, read
from rlhf_plugins import Adapter, Base, Resources, Run, Situation, Stage, StageResult, component, features, session

SHORT, LONG = 2.5e10, 8e10  # FLOPs of a first training: 7 of them are below one and below three of the suite
WAYS: dict[str, dict[str, Any]] = {  # the options of the bandit; halving of three algorithms also is 7 times the FLOPs
    "halving": {"by": "halving", "flops": SHORT, "max_new_tokens": 32},
    "ucb": {"by": "ucb", "flops": SHORT, "pulls": 7, "max_new_tokens": 32},
    "halving_long": {"by": "halving", "flops": LONG, "max_new_tokens": 32},
}
ONE_SEED = {"ucb", "halving_long"}  # the first one, for its time
Stages = dict[str, list[dict[str, Any]]]  # algorithm -> its stages, in a recipe's words
Row = dict[str, Any]


@dataclass(frozen=True)
class Choosing(Stage):
    """Asks a bandit as the stage `auto` does, and trains nothing after it."""

    bandit: Bandit
    stages: Stages
    name: str = "choosing"

    def run(self, run: Run) -> StageResult:
        """Hands on what was chosen, and of each training the score and how far it was below the best."""
        tried = self.bandit.tried(run, Situation(features(run.data), Resources(), tuple(self.stages), self.stages))
        scores = {name: [round(score, 4) for score in of] for name, of in tried.items()}
        lost = round(sum(self.bandit.below(tried)), 4)
        return StageResult(metrics={"algorithm": next(iter(tried)), "scores": scores, "regret": lost})


class Place(NamedTuple):
    """Where a bandit chooses, and which of `WAYS` it is."""

    task: str
    seed: int
    by: str


def main() -> None:
    """Goes on with what is missing."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    file, runs = map(Path, sys.argv[1:])
    split = yaml.safe_load(SPLIT.read_text(encoding="utf-8"))
    suite = read(find(split["suite"]))
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    for place in missing(suite, split["held_out"], rows):
        rows.append(chosen(suite, place, runs / "-".join(map(str, place))))
        file.write_text(json.dumps({"ways": WAYS, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def missing(suite: Suite, tasks: list[str], rows: list[Row]) -> Iterator[Place]:
    """Where nothing has chosen yet."""
    done = {Place(row["task"], row["seed"], row["by"]) for row in rows}
    seeds = {by: suite.seeds[:1] if by in ONE_SEED else suite.seeds for by in WAYS}
    every = (Place(task, seed, by) for seed in suite.seeds for by in WAYS for task in tasks if seed in seeds[by])
    return (place for place in every if place not in done)


def chosen(suite: Suite, place: Place, folder: Path) -> Row:
    """The row of a place."""
    cells = [cell for cell in suite.cells if (cell.task, cell.seed) == place[:2]]
    words, stages = cells[0].recipe, {cell.algorithm: trainings(cell.recipe, cell.trained) for cell in cells}
    base = Base(words["base"], adapter=Adapter(**words["adapter"]))
    run = session(base, words["data"], folder, seed=place.seed)
    made = run.train(Choosing(component("selector", "bandit", **WAYS[place.by]), stages), name="choosing")
    trained = sum(len(of) for of in made.metrics["scores"].values())
    more = {"trainings": trained, "order": round(order(trained), 4), "flops": made.cost.flops}
    return {**place._asdict(), **made.metrics, **more}


def trainings(recipe: dict[str, Any], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The stages of an algorithm without the budgets of the suite, each with its name."""
    own = [{"name": name, **stage} for name, stage in zip(names, recipe["stages"], strict=False)]
    return [{key: value for key, value in stage.items() if key != "budget"} for stage in own]


# ---- for the page ------------------------------------------------------------------------------------------
def whole(rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, list[Row]]:
    """By way, the rows of the seeds under which it chose on every task, in the order of the tasks."""
    found: dict[str, list[Row]] = {}
    by_place = {Place(row["task"], row["seed"], row["by"]): row for row in rows}
    for by, seed in dict.fromkeys((row["by"], row["seed"]) for row in rows):
        if all(Place(task, seed, by) in by_place for task in tasks):
            found.setdefault(by, []).extend(by_place[Place(task, seed, by)] for task in tasks)
    return found


def choices(rows: Sequence[Row]) -> list[dict[str, str]]:
    """By seed, the algorithm that was chosen on each task."""
    found: dict[int, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row["seed"], {})[row["task"]] = row["algorithm"]
    return list(found.values())


def section(ways: Mapping[str, Sequence[Row]], suite: tuple[float, int] | None) -> Iterator[str]:
    """What the ways took, beside the FLOPs of a whole training of the suite and the number of its algorithms."""
    yield from ("", "## What the bandit takes", "")
    yield "By `python -m rlhf_bench.bandits runs/bench/bandits.json runs/bench/bandits`. It scores responses to"
    yield "training prompts by the gold reward, which the other selectors are not given, and what it trained to choose"
    yield "is not used again. FLOPs are those that were counted, with sampling, and the last step of each training is"
    yield "whole. Its own regret is how far its trainings together were below the best, in the mean over its choices."
    yield "Those of halving have the rows, the seed and the options of the trainings that the tables score, and by DPO"
    yield "and IPO begin as these do, so that a long one has seen most of what it is scored by."
    header = ["way", "seeds", "FLOPs of a first training", "trainings", "FLOPs of a choice", "of one whole training"]
    yield from ("", *markdown(Table("", "", [*header, "own regret", "sqrt(T log T)"], [*_taken(ways, suite)])))
    if suite is not None:
        yield from ("", *_dear(ways, *suite))


def _taken(ways: Mapping[str, Sequence[Row]], suite: tuple[float, int] | None) -> Iterator[list[str]]:
    for by, rows in ways.items():
        seeds, flops = {row["seed"] for row in rows}, fmean(row["flops"] for row in rows)
        share = "-" if suite is None else f"{flops / suite[0]:.2f}"
        trained = [f"{WAYS[by]['flops']:.2g}", f"{fmean(row['trainings'] for row in rows):g}", f"{flops:.3g}", share]
        lost = [f"{fmean(row[name] for row in rows):.2f}" for name in ("regret", "order")]
        yield [by, ", ".join(map(str, sorted(seeds))), *trained, *lost]


def _dear(ways: Mapping[str, Sequence[Row]], flops: float, algorithms: int) -> Iterator[str]:
    """Whether a way spends what training everything would, within a tenth, or more."""
    for by, rows in ways.items():
        spent = fmean(row["flops"] for row in rows) / flops
        than = f"as much as {spent:.2f} whole trainings, and training all {algorithms} algorithms takes {algorithms}"
        is_none = "to train all of them and keep the best costs no more, so that it is no selector"
        yield f"- `{by}` spends {than}: {is_none if spent >= 0.9 * algorithms else 'less than training all of them'}."


if __name__ == "__main__":
    main()
