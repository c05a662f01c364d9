"""Which parts of our reward models help on people's data, beside stock TRL: docs/benchmarks/people_parts.md.

    python benchmarks/people_parts.py FOLDER [--base FOLDER] [--seeds 1] [--runs runs/people_parts] [--page]

FOLDER holds arguments_crowd.jsonl.gz (Habernal and Gurevych 2016) and the files of people_heads.py. The debates are
dealt to two halves, and each half is scored by models that learned from the other alone. Each training is a process of
its own and leaves a file in --runs, so that a killed benchmark goes on; --page trains nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import argument_rows as arguments
import numpy as np
import torch
from argument_rows import Response
from paired_units import Numbers
from people_heads import KINDS, measured
from people_page import STOCK, TODAY, Arguments, Found, page
from reward_arguments import carried, folds

from rlhf_plugins import Base, Group
from rlhf_plugins.data.changes.merge import merged

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks" / "people_parts.md"
HALVES = 2
ENSEMBLE, SEEDS = 3, 10  # seeds of today's settings, and the most of any row
TOGETHER, LONGER = f"ensemble: mean of {ENSEMBLE} seeds of today's settings", "the longer argument wins"
DISTILLED = "distilled: the ensemble's soft labels"
MEAN: dict[str, Any] = {"pooling": {"use": "mean", "over": "response"}}


class Row(NamedTuple):
    """A model of the table: what it learns from, and the options that differ from today's settings."""

    labels: Callable[[Sequence[Group]], Iterator[Group]]
    options: dict[str, Any]


ROWS: dict[str, Row] = {
    STOCK: Row(arguments.strict, {}),
    TODAY: Row(arguments.strict, {}),
    "crowd: soft labels by Dawid and Skene": Row(arguments.dawid_skene, {}),
    DISTILLED: Row(arguments.strict, {}),
    "pooling: mean": Row(arguments.strict, MEAN),
    "votes as weights": Row(arguments.weighted, {"loss": "weighted"}),
    "ties: ties_rao_kupper": Row(arguments.with_ties, {"loss": "ties_rao_kupper"}),
    "loss: label_smoothed": Row(arguments.strict, {"loss": {"use": "label_smoothed", "epsilon": 0.1}}),
    "all layers trained": Row(arguments.strict, {"train_layers": None}),
}


class Job(NamedTuple):
    """One training."""

    row: str
    half: int
    seed: int

    def file(self, runs: Path) -> Path:
        """Where its result is kept."""
        words = "".join(c if c.isalnum() else "_" for c in self.row)
        return runs / f"{words}-{self.half}-{self.seed}.json"


class People(NamedTuple):
    """The data: the judged pairs to learn from, and the topics of each half with the strict pairs to be tested on."""

    base: Base
    pairs: list[Group]
    halves: list[list[Group]]

    def responses(self, half: int, all_of_them: bool = False) -> list[Response]:
        """The arguments of a half, then, where all are wanted, the others'."""
        rest = [group for number, groups in enumerate(self.halves) for group in groups if number != half]
        groups = [*self.halves[half], *(rest if all_of_them else [])]
        return [(str(group.prompt), str(response)) for group in groups for response in group.responses]


def main() -> None:
    """Trains what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", default=carried(), required=carried() is None)
    parser.add_argument("--seeds", type=int, default=1, help="of each row; today's settings have three or more")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "people_parts")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    people = read(options.folder, Base(options.base))
    for job in [] if options.page else jobs(options.seeds):
        if not job.file(options.runs).exists():
            trained(people, job, options.runs)
    files = {name: options.runs / f"{kind.file}.json" for name, kind in KINDS.items()}
    for name, file in files.items():
        if not options.page and not file.exists():
            file.write_text(json.dumps(measured(KINDS[name], options.folder, people.base)))
            print(f"{name}: done", flush=True)
    heads = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    OUT.write_text(page(scored(people, options.runs), heads))
    print(OUT.read_text())


def read(folder: Path, base: Base) -> People:
    """The files of the folder."""
    pairs = arguments.read_pairs(str(folder / "arguments_crowd.jsonl.gz"), base)
    groups = list(merged(arguments.strict(pairs)))
    return People(base, list(filter(arguments.learned, pairs)), folds(groups, HALVES, 0))


def jobs(seeds: int) -> Iterator[Job]:
    """Half by half: stock and what the ensemble is made of, then each part, then further seeds."""
    for half in range(HALVES):
        first = [Job(STOCK, half, 0), *(Job(TODAY, half, seed) for seed in range(ENSEMBLE))]
        yield from dict.fromkeys([*first, *(Job(row, half, seed) for seed in range(seeds) for row in ROWS)])


def trained(people: People, job: Job, runs: Path) -> None:
    """Runs one training in a process of its own, whose memory is measured."""
    process = multiprocessing.get_context("fork").Process(target=_train, args=(people, job, runs))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{job.row}, half {job.half}, seed {job.seed}: ended with {process.exitcode}")
    found = json.loads(job.file(runs).read_text())
    print(f"{job}: {found['training']:.0f} s, {found['mebibytes']:.0f} MiB", flush=True)


def _train(people: People, job: Job, runs: Path) -> None:
    """Rewards of a half by a model that learned from the other's topics, with its cost.

    Today's settings score both halves, since their ensemble teaches.
    """
    before = _peak()
    asked = people.responses(job.half, job.row == TODAY)
    held = {group.topic for group in people.halves[job.half]}
    pairs = [pair for pair in people.pairs if pair.topic not in held]
    labels, settings = ROWS[job.row]
    if job.row == DISTILLED:
        teacher = dict(zip(people.responses(job.half, True), ensemble(job.half, runs), strict=True))
        train = list(arguments.taught(pairs, teacher))
    else:
        train = list(labels(pairs))
    if job.row == STOCK:
        found = arguments.stock(people.base, train, job.seed, asked)
    else:
        found = arguments.ours(people.base, train, settings, job.seed, asked)
    cost = {"mebibytes": _peak() - before, "responses": len(asked), "pairs": len(train)}
    job.file(runs).write_text(json.dumps({**found._asdict(), **cost}))


def ensemble(half: int, runs: Path) -> list[float]:
    """The mean reward of today's settings over seeds."""
    each = [json.loads(Job(TODAY, half, seed).file(runs).read_text())["rewards"] for seed in range(ENSEMBLE)]
    return [float(reward) for reward in np.mean(each, 0)]


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB


# ---- what the page shows ---------------------------------------------------------------------------------
def scored(people: People, runs: Path) -> Arguments:
    """All rows on the halves that every row has.

    Raises:
        SystemExit: no half is finished.
    """
    halves = [half for half in range(HALVES) if all(Job(row, half, 0).file(runs).exists() for row in ROWS)]
    if not halves:
        raise SystemExit(f"{runs}: no half has all rows yet")
    rows = {row: found(people, row, halves, runs) for row in ROWS}
    today = rows[TODAY]
    mean = np.concatenate([gaps_of(people, half, ensemble(half, runs)) for half in halves])
    several = today._replace(gaps=mean[None], training=ENSEMBLE * today.training, scoring=ENSEMBLE * today.scoring)
    rows[DISTILLED] = rows[DISTILLED]._replace(training=rows[DISTILLED].training + several.training)
    lengths = [[float(len(text)) for _, text in people.responses(half)] for half in halves]
    longer = np.concatenate([gaps_of(people, half, each) for half, each in zip(halves, lengths, strict=True)])
    topics = [str(group.topic) for half in halves for group in people.halves[half] for _ in group.comparisons]
    others = [half for half in range(HALVES) if half not in halves]
    done = {row: [half for half in others if Job(row, half, 0).file(runs).exists()] for row in ROWS}
    rest = {row: float((found(people, row, some, runs).gaps > 0).mean()) for row, some in done.items() if some}
    return Arguments({LONGER: Found(longer[None]), **rows, TOGETHER: several}, topics, rest)


def found(people: People, row: str, halves: Sequence[int], runs: Path) -> Found:
    """Of the seeds that all these halves have."""
    files = [[Job(row, half, seed).file(runs) for half in halves] for seed in range(SEEDS)]
    whole = [[json.loads(file.read_text()) for file in each] for each in files if all(map(Path.exists, each))]
    gaps = [
        np.concatenate([gaps_of(people, half, one["rewards"]) for half, one in zip(halves, each, strict=True)])
        for each in whole
    ]
    every = [one for each in whole for one in each]
    training, mebibytes = (float(np.mean([one[name] for one in every])) for name in ("training", "mebibytes"))
    scoring = 1000 * float(np.mean([one["scoring"] / one["responses"] for one in every]))
    return Found(np.array(gaps), training, scoring, mebibytes)


def gaps_of(people: People, half: int, rewards: Sequence[float]) -> Numbers:
    """r_better - r_worse of the pairs of a half, topic by topic; rewards beyond those of its arguments are not read."""
    starts = np.cumsum([0, *(len(group.responses) for group in people.halves[half])])
    of = zip(people.halves[half], starts, strict=False)
    places = [(start + c.better, start + c.worse) for group, start in of for c in group.comparisons]
    better, worse = np.array(places).T
    each = np.asarray(rewards, dtype=float)
    gaps: Numbers = each[better] - each[worse]
    return gaps


if __name__ == "__main__":
    main()
