"""Measures selectors on tasks that nothing was fitted on: which tasks these are was written before the first run.

    python -m rlhf_bench.study RUNS PAGE.md HISTORY.json

RUNS is the folder in which `rlhf bench selection` ran. The history of the other tasks is written for `learned`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlhf_bench.bundled import find
from rlhf_bench.intervals import resampled
from rlhf_bench.markup import shown
from rlhf_bench.measures import Row, measure
from rlhf_bench.suite import Suite, read
from rlhf_plugins import Base, Features, Resources, RunError, Situation, component, features

SPLIT = Path(__file__).parent / "split.yaml"
ALWAYS = "dpo"  # what selectors are compared with


def main() -> None:
    """Reads the runs, writes the history, then the page."""
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    runs, page, history = map(Path, sys.argv[1:])
    split = yaml.safe_load(SPLIT.read_text(encoding="utf-8"))
    suite = read(find(split["suite"]))
    rows = [row for row in measure(suite, runs) if row["status"] == "finished"]
    scores, seen = gold(rows), {task: looked_at(suite, task) for task in suite.tasks}
    whole = [task for task in suite.tasks if set(scores.get(task, ())) == set(suite.algorithms)]
    held_out = [task for task in split["held_out"] if task in whole]
    if not held_out:
        raise RunError(f"{runs}: there is no held-out task on which every algorithm has run")
    history.write_text(json.dumps(learned_rows(rows, seen, split["learn"]), indent=0) + "\n", encoding="utf-8")
    chosen = {name: choose(name, suite, seen, held_out, history) for name in ("rules", "learned")}
    chosen |= {f"always {name}": dict.fromkeys(held_out, name) for name in suite.algorithms}
    left_out = [task for task in suite.tasks if task not in whole]
    missed = [f"Left out, since not every algorithm ran on it: {', '.join(left_out)}.", ""] if left_out else []
    lines = text(suite, rows, {task: scores[task] for task in whole}, chosen)
    noted = [split["note"], ""] if split.get("note") else []
    page.write_text("\n".join([*lines[:4], *noted, *missed, *lines[4:]]) + "\n", encoding="utf-8")


def gold(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The mean score by task and algorithm, over seeds and prompts."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        found.setdefault(row["task"], {}).setdefault(row["algorithm"], []).append(float(np.mean(row["scores"])))
    return {task: {name: float(np.mean(each)) for name, each in mine.items()} for task, mine in found.items()}


def looked_at(suite: Suite, task: str) -> Features:
    """The features of a task's data under the first seed."""
    cell = next(cell for cell in suite.cells if cell.task == task)
    data = {key: value for key, value in cell.recipe["data"].items() if key != "format"}
    loaded = component("data_format", cell.recipe["data"]["format"], **data).load(Base(""), cell.seed)
    return features(loaded)


def learned_rows(rows: Sequence[Row], seen: Mapping[str, Features], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The history: one row per run of the tasks that may be learned from."""
    return [
        {
            "task": row["task"],
            "algorithm": row["algorithm"],
            "score": round(float(np.mean(row["scores"])), 4),
            "features": {k: v for k, v in asdict(seen[row["task"]]).items() if v is not None},
        }
        for row in rows
        if row["task"] in tasks
    ]


def choose(
    name: str, suite: Suite, seen: Mapping[str, Features], tasks: Sequence[str], history: Path
) -> dict[str, str]:
    """The first choice of a selector on each task."""
    options = {"history": str(history)} if name == "learned" else {}
    selector = component("selector", name, **options)
    situations = {task: Situation(seen[task], Resources(), tuple(suite.algorithms)) for task in tasks}
    return {task: selector(situation)[0].algorithm for task, situation in situations.items()}


def regrets(scores: Mapping[str, Mapping[str, float]], chosen: Mapping[str, str]) -> np.ndarray:
    """How far each choice is below the best algorithm of its task, (tasks,)."""
    return np.array([max(scores[task].values()) - scores[task][name] for task, name in chosen.items()])


def text(
    suite: Suite, rows: Sequence[Row], scores: Mapping[str, Mapping[str, float]], chosen: Mapping[str, dict[str, str]]
) -> list[str]:
    """The page."""
    lost = {name: regrets(scores, picks) for name, picks in chosen.items()}
    machine = rows[0]["hardware"]
    ((unit, amount),) = suite.budget.items()
    tasks = list(next(iter(chosen.values())))
    return [
        "# Selectors on tasks that nothing was fitted on",
        "",
        f"By `rlhf bench selection` and `python -m rlhf_bench.study` on {machine['cores']} cores ({machine['cpu']}), "
        f"seeds {', '.join(map(str, suite.seeds))}, {amount:.3g} {unit} for all trainings of an algorithm. `learned` "
        f"was fitted on the {len(scores) - len(tasks)} other tasks of the suite; which tasks are held out was "
        "committed before the first run. Regret is the distance in gold reward from the best algorithm of a task, "
        "which is the best of means that are themselves noisy; intervals are 95%, by resampling tasks.",
        "",
        "| selector | mean regret | best choice | regret less that of always " + ALWAYS + " |",
        "| --- | --- | --- | --- |",
        *(_selector(name, each, lost[f"always {ALWAYS}"]) for name, each in lost.items()),
        "",
        _verdict(lost),
        "",
        "| held-out task | " + " | ".join(suite.algorithms) + " | rules | learned |",
        "|" + " --- |" * (len(suite.algorithms) + 3),
        *(_task(task, scores[task], suite, chosen) for task in tasks),
        "",
        "| learned from | " + " | ".join(suite.algorithms) + " |",
        "|" + " --- |" * (len(suite.algorithms) + 1),
        *(
            f"| {task} | " + " | ".join(f"{scores[task][name]:.2f}" for name in suite.algorithms) + " |"
            for task in scores
            if task not in tasks
        ),
    ]


def _selector(name: str, lost: np.ndarray, always: np.ndarray) -> str:
    difference = "-" if name == f"always {ALWAYS}" else shown(resampled(lost - always), sign="+")
    return f"| {name} | {shown(resampled(lost))} | {int((lost == 0).sum())} of {len(lost)} | {difference} |"


def _verdict(lost: Mapping[str, np.ndarray]) -> str:
    """Whether learned <= rules <= always DPO, and whether an interval says so."""
    pairs = [("learned", "rules"), ("rules", f"always {ALWAYS}")]
    said = []
    for better, worse in pairs:
        found = resampled(lost[better] - lost[worse])
        holds = "is below" if found.mean < 0 else "equals" if found.mean == 0 else "is above"
        sure = "clear of 0" if found.clear else "not clear of 0"
        said.append(f"`{better}` {holds} `{worse}` by {shown(found, sign='+')}, {sure}")
    return "; ".join(said) + "."


def _task(task: str, scores: Mapping[str, float], suite: Suite, chosen: Mapping[str, Mapping[str, str]]) -> str:
    best = max(scores.values())
    cells = [f"**{scores[n]:.2f}**" if scores[n] == best else f"{scores[n]:.2f}" for n in suite.algorithms]
    return f"| {task} | {' | '.join(cells)} | {chosen['rules'][task]} | {chosen['learned'][task]} |"


if __name__ == "__main__":
    main()
