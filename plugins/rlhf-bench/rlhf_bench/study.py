"""Measures selectors on tasks that nothing was fitted on: which tasks these are was written before the first run.

    python -m rlhf_bench.study PAGE.md [RUNS HISTORY.json]

The page is written from PAGE.json beside it, the scores of every task, and from bandits.json, where
`python -m rlhf_bench.bandits` wrote it; it runs nothing. RUNS is the folder in which `rlhf bench selection` ran:
PAGE.json is made of it first, and the history of the tasks that `learned` may learn from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from rlhf_bench import bandits
from rlhf_bench.bundled import SPLIT, find
from rlhf_bench.intervals import Estimate, resampled
from rlhf_bench.learned import BUNDLED
from rlhf_bench.markup import Table, markdown, shown
from rlhf_bench.measures import Row, measure
from rlhf_bench.suite import Suite, read
from rlhf_plugins import Base, Features, Resources, RunError, Situation, component, features, holm

ALWAYS = "always dpo"  # what selectors are compared with
COMPARED = (("learned", "rules"), ("rules", ALWAYS), ("learned", ALWAYS), ("learned", "always ipo"))
Pairs = Sequence[tuple[str, str]]
Kept = dict[str, Any]  # a PAGE.json


class Tried(NamedTuple):
    """What a selector chose on each held-out task: its regrets, (tasks,), and how many of its choices were the best."""

    regrets: np.ndarray
    hits: int
    choices: int


def main() -> None:
    """Reads the runs where they are given, then writes the page."""
    if len(sys.argv) not in (2, 4):
        raise SystemExit(__doc__)
    page, *folders = map(Path, sys.argv[1:])
    split = yaml.safe_load(SPLIT.read_text(encoding="utf-8"))
    suite, file = read(find(split["suite"])), page.with_suffix(".json")
    history = folders[1] if folders else BUNDLED
    if folders:
        rows = [row for row in measure(suite, folders[0]) if row["status"] == "finished"]
        seen = {task: looked_at(suite, task) for task in split["learn"]}
        history.write_text(json.dumps(learned_rows(rows, seen), indent=0) + "\n", encoding="utf-8")
        file.write_text(json.dumps(kept(suite, rows), indent=1) + "\n", encoding="utf-8")
    found = json.loads(file.read_text(encoding="utf-8"))
    held_out = [task for task in split["held_out"] if task in found["scores"]]
    if not held_out:
        raise RunError(f"{file}: there is no held-out task on which every algorithm has run")
    seen = {task: looked_at(suite, task) for task in held_out}
    chosen = {name: choose(name, suite, seen, history) for name in ("rules", "learned")}
    chosen |= {f"always {name}": dict.fromkeys(held_out, name) for name in suite.algorithms}
    notes = [note for note in (split.get("note"), found.get("note")) if note]
    own = page.with_name("bandits.json")
    rows = json.loads(own.read_text(encoding="utf-8"))["rows"] if own.is_file() else []
    learned_from = {row["task"] for row in json.loads(history.read_text(encoding="utf-8"))}
    lines = text(suite, found, chosen, notes, len(learned_from), bandits.whole(rows, held_out))
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def kept(suite: Suite, rows: Sequence[Row]) -> Kept:
    """What the page is made of: of each task on which every algorithm ran the mean scores, and the best algorithm."""
    scores = {task: of for task, of in gold(rows).items() if set(of) == set(suite.algorithms)}
    rounded = {task: {name: round(score, 4) for name, score in of.items()} for task, of in scores.items()}
    return {
        "hardware": {name: rows[0]["hardware"][name] for name in ("cores", "cpu")},
        "scores": rounded,
        "best": {task: max(of, key=lambda name: of[name]) for task, of in scores.items()},
    }


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


def learned_rows(rows: Sequence[Row], seen: Mapping[str, Features]) -> list[dict[str, Any]]:
    """The history: one row per run of the tasks that may be learned from, those that were seen."""
    return [
        {
            "task": row["task"],
            "algorithm": row["algorithm"],
            "score": round(float(np.mean(row["scores"])), 4),
            "features": {k: v for k, v in asdict(seen[row["task"]]).items() if v is not None},
        }
        for row in rows
        if row["task"] in seen
    ]


def choose(name: str, suite: Suite, seen: Mapping[str, Features], history: Path) -> dict[str, str]:
    """The first choice of a selector on each task."""
    options = {"history": str(history)} if name == "learned" else {}
    selector = component("selector", name, **options)
    situations = {task: Situation(own, Resources(), tuple(suite.algorithms)) for task, own in seen.items()}
    return {task: selector(situation)[0].algorithm for task, situation in situations.items()}


def regrets(scores: Mapping[str, Mapping[str, float]], chosen: Mapping[str, str]) -> np.ndarray:
    """How far each choice is below the best algorithm of its task, (tasks,)."""
    return np.array([max(scores[task].values()) - scores[task][name] for task, name in chosen.items()])


def outcome(found: Kept, choices: Sequence[Mapping[str, str]]) -> Tried:
    """The result of a selector: its regret on each task, the mean over seeds, and its hits over all tasks and seeds."""
    hits = sum(found["best"][task] == name for chosen in choices for task, name in chosen.items())
    lost = np.mean([regrets(found["scores"], chosen) for chosen in choices], axis=0)
    return Tried(lost, hits, sum(map(len, choices)))


def text(
    suite: Suite,
    found: Kept,
    chosen: Mapping[str, Mapping[str, str]],
    notes: Sequence[str],
    learned_from: int,
    ways: Mapping[str, Sequence[bandits.Row]],
) -> Iterator[str]:
    """The page.

    Args:
        suite: the suite that ran.
        found: its scores.
        chosen: by selector, by held-out task.
        notes: sentences of their own.
        learned_from: tasks of the history.
        ways: the rows of each way of the bandit, on the same tasks.
    """
    scores, best, machine = found["scores"], found["best"], found["hardware"]
    tried = {name: outcome(found, [picks]) for name, picks in chosen.items()}
    of_bandits = {f"bandit, {by}": outcome(found, bandits.choices(rows)) for by, rows in ways.items()}
    ((unit, amount),) = suite.budget.items()
    tasks = list(next(iter(chosen.values())))
    others = [task for task in scores if task not in tasks]
    missing = [task for task in suite.tasks if task not in scores]
    yield from ("# Selectors on tasks that nothing was fitted on", "")
    yield (
        f"By `rlhf bench selection` and `python -m rlhf_bench.study` on {machine['cores']} cores ({machine['cpu']}), "
        f"seeds {', '.join(map(str, suite.seeds))}, {amount:.3g} {unit} for all trainings of an algorithm. `learned` "
        f"was fitted on {learned_from} other tasks of the suite; which tasks are held out was "
        "committed before the first run. Regret is the distance in gold reward from the best algorithm of a task, "
        "which is the best of means that are themselves noisy; intervals are 95% over tasks, the wider "
        "of a bootstrap's and of Student's."
    )
    for note in (*notes, *[f"Left out, since not every algorithm ran on it: {', '.join(missing)}."] * bool(missing)):
        yield from ("", note)
    yield from ("", *markdown(_selectors(tried | of_bandits)), "", *markdown(_comparisons(tried)), "", *failures(tried))
    picks = [[chosen[name][task] for name in ("rules", "learned")] for task in tasks]
    names = [*suite.algorithms]
    rows = [[task, *_cells(scores[task], best[task], names), *own] for task, own in zip(tasks, picks, strict=True)]
    yield from ("", *markdown(Table("", "", ["held-out task", *names, "rules", "learned"], rows)))
    rows = [[task, *_cells(scores[task], None, names)] for task in others]
    yield from ("", *markdown(Table("", "", ["learned from", *names], rows)))
    if of_bandits:
        asked = [(name, other) for name in of_bandits for other in ("learned", ALWAYS)]
        whole = (amount, len(names)) if unit == "flops" else None
        yield from (*bandits.section(ways, whole), "", *markdown(_comparisons(tried | of_bandits, asked)))
        chance = np.mean([tried[f"always {name}"].regrets.mean() for name in names])
        yield from ("", f"An algorithm drawn by chance loses {chance:.2f}, the mean over those that are always taken.")


def _selectors(tried: Mapping[str, Tried]) -> Table:
    """A row per selector."""
    rows = [[name, shown(resampled(own.regrets)), f"{own.hits} of {own.choices}"] for name, own in tried.items()]
    return Table("", "", ["selector", "mean regret", "best choice"], rows)


def compared(tried: Mapping[str, Tried], pairs: Pairs = COMPARED) -> dict[str, tuple[Estimate, float | None]]:
    """The differences of mean regret that are asked about, each with its p-value corrected for their number."""
    found = {f"`{one}` less `{other}`": resampled(tried[one].regrets - tried[other].regrets) for one, other in pairs}
    corrected = holm({name: difference.p for name, difference in found.items()})
    return {name: (difference, corrected[name]) for name, difference in found.items()}


def _comparisons(tried: Mapping[str, Tried], pairs: Pairs = COMPARED) -> Table:
    rows = [
        [name, shown(found, sign="+"), "-" if found.p is None else f"{found.p:.3f}", "-" if p is None else f"{p:.3f}"]
        for name, (found, p) in compared(tried, pairs).items()
    ]
    return Table("", "", ["mean regret", "difference", "p", f"p, corrected for {len(rows)} (Holm)"], rows)


def failures(tried: Mapping[str, Tried]) -> Iterator[str]:
    """Where selectors fail, in words: how often they miss, and which differences chance may make."""
    count = len(tried["rules"].regrets)
    fixed = max((name for name in tried if name.startswith("always ")), key=lambda name: tried[name].hits)
    taken = f"`rules` take the best algorithm on {tried['rules'].hits} of {count} held-out tasks, `learned` on"
    yield f"{taken} {tried['learned'].hits}, and `{fixed}`, which looks at nothing, on {tried[fixed].hits}."
    means = [tried[name].regrets.mean() for name in ("learned", "rules", ALWAYS)]
    holds = "holds" if means == sorted(means) else "does not hold"
    yield f"The order `learned`, `rules`, `{ALWAYS}`, lowest regret first, {holds} in means."
    found = compared(tried)
    before = [name for name, (difference, _) in found.items() if difference.clear]
    after = [name for name, (_, p) in found.items() if p is not None and p < 0.05]
    if not before:
        yield "No difference is clear of chance, before correction or after it."
        return
    yield f"Before correction the interval of {' and '.join(before)} leaves 0 out;"
    yield f"after it {' and '.join(after) or 'none'} is clear of chance."


def _cells(scores: Mapping[str, float], best: str | None, names: Sequence[str]) -> list[str]:
    """The scores of a task, the best one in bold."""
    return [f"**{scores[name]:.2f}**" if name == best else f"{scores[name]:.2f}" for name in names]


if __name__ == "__main__":
    main()
