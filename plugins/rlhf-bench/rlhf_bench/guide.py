"""Which algorithm on which data, on one page, and PPO, DPO and IPO compared by what was measured. It runs nothing.

    python -m rlhf_bench.guide RUNS PAGE.md

RUNS is the folder in which suites ran, of each of which what `rlhf bench SUITE --table` wrote is read; or one with such
tables as suite_NAME.json, such as docs/benchmarks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_bench.commands import SUITES
from rlhf_bench.intervals import Estimate, estimate
from rlhf_bench.judges import GOLD, scored
from rlhf_bench.markup import Table, markdown, number, shown
from rlhf_bench.properties import properties
from rlhf_bench.suite import BASE
from rlhf_plugins import RunError

Bench = dict[str, Any]  # a bench.json
Where = tuple[int, str]  # a seed, and the prompts that have a score
Scores = dict[str, dict[Where, list[float]]]  # by algorithm, of each prompt
BEST = (
    "{} with its 95% interval. In bold: the highest mean, and every other that is not clearly below it on the "
    "same seeds and prompts, before any correction for the number of comparisons."
)

GAINS = (
    "The mean {0} less that of {1}, with its 95% interval: each seed has a judge with its own scale. In bold: "
    "what is not clearly below the highest mean, that of {1} among them, on the same seeds and prompts, before any "
    "correction for the number of comparisons."
)
AREAS = (
    "The mean gold reward over KL, of the best value of an algorithm's knob within each KL. In bold: the highest; "
    "areas have no interval."
)
OVERFIT = "overfit"  # the suite whose directions are said
WHY = (
    "Azar et al. (2023) expect IPO above DPO where preferences are certain, since DPO's loss has no minimum there and "
    "its policy leaves the reference ([exact](facts.md)). That is about minima: a training that a budget ends is on "
    "its way to one, and the KLs say how far it went."
)


def main() -> None:
    """Reads the tables and writes the page."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    root, page = map(Path, sys.argv[1:])
    page.write_text("\n".join(text(read(root))) + "\n", encoding="utf-8")


def read(root: Path) -> dict[str, Bench]:
    """The tables of the suites that ran whole, without other values, by name.

    Raises:
        RunError: there is none, or an older version's.
    """
    found = {}
    for file in sorted([*root.glob("*/bench.json"), *root.glob("suite_*.json")]):
        bench = json.loads(file.read_text(encoding="utf-8"))
        if "changes" not in bench:
            name = bench["suite"]
            raise RunError(
                f"{file}: an older version wrote it; `rlhf bench {name} --table --runs {root}` writes it again"
            )
        whole = not bench["suite"].endswith("-quick") and not bench.get("overrides")
        if whole and any(run["status"] == "finished" for run in bench["runs"]):
            found[bench["suite"]] = bench
    if not found:
        raise RunError(f"{root}: holds no bench.json of a whole suite; run `rlhf bench SUITE --runs {root}` first")
    return found


def text(suites: Mapping[str, Bench]) -> Iterator[str]:
    """The page."""
    yield from ("# Which algorithm on which data", "")
    yield "By `python -m rlhf_bench.guide RUNS PAGE.md` from what the suites wrote; under each table is the command"
    yield "that makes its numbers again."
    for suite in suites.values():
        table = of_knobs(suite) if suite["frontiers"] else of_tasks(suite)
        yield from ("", *markdown(table), "", f"`{command(suite)}`: {machine(suite)}")
        if suite["suite"] == OVERFIT:
            yield from ("", *directions(suite), "", WHY)
    yield from ("", *markdown(properties(suites)))


def command(suite: Bench) -> str:
    """What runs it: a bundled suite has a name, another one a file."""
    return f"rlhf bench {suite['suite']}{'' if suite['suite'] in SUITES else '.yaml'}"


def machine(suite: Bench) -> str:
    """Where and with what a suite ran."""
    done = [run for run in suite["runs"] if run["status"] == "finished"]
    where = sorted({f"{run['hardware']['cores']} cores ({run['hardware']['cpu']})" for run in done})
    ((unit, amount),) = suite["budget"].items()
    missing = len(suite["runs"]) - len(done)
    less = f"; {missing} of its {len(suite['runs'])} runs are not there" if missing else ""
    return f"seeds {', '.join(map(str, suite['seeds']))}, {amount:.3g} {unit} a run, {' and '.join(where)}{less}."


def of_tasks(suite: Bench) -> Table:
    """A row per task, a column per algorithm, the best in bold; gains over the baseline where no gold is known."""
    score = scored(suite["runs"])
    key = "gold" if score == GOLD else "gain"
    columns = [name for name in (BASE, *suite["algorithms"]) if key == "gold" or name not in (BASE, suite["baseline"])]
    rows = []
    for task, about in suite["tasks"].items():
        mine = [line for line in suite["lines"] if line["task"] == task and line[key]]
        found = {line["algorithm"]: shown(Estimate(**line[key]), "" if key == "gold" else "+") for line in mine}
        best = leading(scores(suite, task))
        cells = [f"**{found[name]}**" if name in best and name in found else found.get(name, "-") for name in columns]
        rows.append([task, about, *cells])
    about = BEST.format(score.capitalize()) if key == "gold" else GAINS.format(score, suite["baseline"])
    return Table(suite["suite"], about, ["task", "data", *columns], rows)


def directions(suite: Bench) -> Iterator[str]:
    """Whether IPO is above DPO on each task, as the IPO paper has it where preferences are certain."""
    lines = {(line["task"], line["algorithm"]): line for line in suite["lines"]}
    for task in suite["tasks"]:
        ipo, dpo = lines.get((task, "ipo")), lines.get((task, "dpo"))
        if ipo and dpo and ipo["gain"]:
            gain = Estimate(**ipo["gain"])
            side = "" if gain.clear else ", within what chance makes"
            kls = f"KL {number(ipo['means']['kl'], '.2f')} and {number(dpo['means']['kl'], '.2f')}"
            yield f"- {task}: IPO less DPO is {shown(gain, '+')} over {len(ipo['seeds'])} seeds{side}; {kls}."


def of_knobs(suite: Bench) -> Table:
    """A row per task, a column per algorithm with the area under its frontier."""
    areas = {(one["task"], one["algorithm"]): one["area"] for one in suite["frontiers"]}
    names = list(dict.fromkeys(name for _, name in areas))
    rows = []
    for task, about in suite["tasks"].items():
        mine = [areas.get((task, name)) for name in names]
        best = max((area for area in mine if area is not None), default=None)
        cells = [f"**{area:.2f}**" if area is not None and area == best else number(area, ".2f") for area in mine]
        rows.append([task, about, *cells])
    return Table(suite["suite"], AREAS, ["task", "data", *names], rows)


def scores(suite: Bench, task: str) -> Scores:
    """The scores of every finished run of a task, and of the untrained base, by algorithm, then by seed and prompts."""
    found: Scores = {}
    for run in suite["runs"]:
        if run["task"] == task and run["status"] == "finished":
            where = run["seed"], run["prompts"]
            found.setdefault(run["algorithm"], {})[where] = run["scores"]
            found.setdefault(BASE, {})[where] = run[BASE]
    return found


def leading(found: Scores) -> list[str]:
    """The algorithm with the highest mean, then those whose paired distance from it may be 0."""
    if not found:
        return []
    means = {name: float(np.mean([np.mean(one) for one in by_seed.values()])) for name, by_seed in found.items()}
    first = max(means, key=lambda name: means[name])
    return [first, *(name for name in found if name != first and not below(found[name], found[first]))]


def below(own: Mapping[Where, Sequence[float]], best: Mapping[Where, Sequence[float]]) -> bool:
    """Whether one is clearly below another, by the seeds that both have with the same prompts.

    With fewer than two of them nobody knows, and the mean decides.
    """
    shared = [where for where in own if where in best]
    if len(shared) < 2:
        return True
    highest = estimate([np.subtract(own[where], best[where]) for where in shared]).high
    return highest is not None and highest < 0


if __name__ == "__main__":
    main()
