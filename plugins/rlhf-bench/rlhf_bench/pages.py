"""A suite's tables as JSON, Markdown and one HTML page.

    python -m rlhf_bench.pages docs/benchmarks

writes each suite_NAME.md of a folder again, from the suite_NAME.json beside it; it runs nothing.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_bench import changes, climbs, frontier, judges
from rlhf_bench.columns import COST, of_lines, quality
from rlhf_bench.markup import Table, as_html
from rlhf_bench.markup import markdown as as_markdown
from rlhf_bench.measures import Row
from rlhf_bench.plots import plots
from rlhf_bench.suite import BASE, Suite
from rlhf_bench.table import Line, lines, notes, verdicts

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: left; white-space: nowrap; }
svg { max-width: 100%; } svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
"""
OF_COST = (
    "Of all stages of an algorithm together. Tokens are those trained on and those sampled. 90% is where the last "
    "stage's own curve, as a moving mean, has made 90% of its way: of an online stage the reward, of a preference loss "
    "the margin of its implied rewards, of rounds the reward of each; seconds are with those of the stages before. It "
    "is no measure that algorithms share. Where not all seeds' curves rose, how many did takes the place of the mean."
)


def main(given: Sequence[str]) -> None:
    """Writes the pages of a folder again."""
    if len(given) != 1:
        raise SystemExit(__doc__)
    for file in sorted(Path(given[0]).glob("suite_*.json")):
        file.with_suffix(".md").write_text(page_of(json.loads(file.read_text(encoding="utf-8"))), encoding="utf-8")


def page_of(content: Mapping[str, Any]) -> str:
    """The page for docs of a bench.json."""
    same = {name: content[name] for name in ("about", "seeds", "budget", "baseline", "tasks", "against")}
    knobs = {label: (name, value) for label, (name, value) in content["knobs"].items()}
    algorithms = dict.fromkeys(content["algorithms"], "")
    suite = Suite(content["suite"], **same, algorithms=algorithms, knobs=knobs, cells=())
    return markdown(suite, content["runs"], lines(suite, content["runs"]))


def write(suite: Suite, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes bench.json, bench.md and bench.html."""
    found = lines(suite, rows)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"suite": suite.name, "about": suite.about, "seeds": suite.seeds, "budget": suite.budget}
    content: dict[str, Any] = {
        **about,
        "overrides": suite.overrides,
        "baseline": suite.baseline,
        "tasks": suite.tasks,
        "against": suite.against,
        "algorithms": list(suite.algorithms),
        "knobs": suite.knobs,
        "lines": [line.record() for line in found],
        "changes": [one.record() for one in changes.changes(suite, rows)],
        "frontiers": [asdict(one) for one in frontier.frontiers(suite, found)],
        "climbs": [one.record() for one in climbs.climbs(suite, rows)],
        "runs": list(rows),
    }
    pages = {
        "bench.json": as_json(content),
        "bench.md": markdown(suite, rows, found),
        "bench.html": page(suite, rows, found),
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


def as_json(content: Mapping[str, Any]) -> str:
    """An object with a line for each of its fields, and for each run and line of a table, as a diff shows them."""
    fields = (f"{json.dumps(name)}: {_listed(value)}" for name, value in content.items())
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _listed(value: Any) -> str:
    if not (isinstance(value, list) and value and isinstance(value[0], dict)):
        return json.dumps(value, allow_nan=False)
    return "[\n" + ",\n".join(f"  {json.dumps(one, allow_nan=False)}" for one in value) + "\n]"


def tables(suite: Suite, rows: Sequence[Row], found: Sequence[Line]) -> list[Table]:
    """What is reached, then what it costs, what changes from task to task and with a knob, and gold over training."""
    trained = [line for line in found if line.algorithm != BASE]
    score = judges.scored(rows)
    made = (
        of_lines("", "", list(quality(suite, found, score)), found),
        of_lines("Cost", OF_COST, COST, trained),
        changes.table(suite, changes.changes(suite, rows), score),
        frontier.table(frontier.frontiers(suite, found), score),
        climbs.table(climbs.climbs(suite, rows)),
    )
    return [table for table in made if table]


def markdown(suite: Suite, rows: Sequence[Row], found: Sequence[Line]) -> str:
    """The page for docs."""
    first, *others = tables(suite, rows, found)
    about = " ".join(part for part in (suite.about, _where(suite, rows)) if part)
    said = [f"- {sentence}" for sentence in (*verdicts(suite, found), *notes(suite, rows, found))]
    text = [f"# {suite.name}", "", about, "", *as_markdown(first), "", *said]
    return "\n".join([*text, *(line for table in others for line in ("", *as_markdown(table)))]).rstrip() + "\n"


def page(suite: Suite, rows: Sequence[Row], found: Sequence[Line]) -> str:
    """The same as HTML, with plots of each task."""
    first, *others = map(as_html, tables(suite, rows, found))
    said = "".join(f"<li>{html.escape(one)}</li>" for one in (*verdicts(suite, found), *notes(suite, rows, found)))
    title = html.escape(suite.name)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1><p>{html.escape(suite.about)} {html.escape(_where(suite, rows))}</p>"
        f"{''.join(plots(suite, found, judges.scored(rows)))}{first}<ul>{said}</ul>{''.join(others)}</html>\n"
    )


def _where(suite: Suite, rows: Sequence[Row]) -> str:
    """The machine, the seeds and the budget, in words."""
    ((unit, amount),) = suite.budget.items()
    budget = f"{amount:.3g} {'FLOPs' if unit == 'flops' else unit}"
    seeds = ", ".join(map(str, suite.seeds))
    done = [row for row in rows if row["status"] == "finished"]
    machines = sorted({f"{row['hardware']['cores']} cores ({row['hardware']['cpu']})" for row in done})
    gpus = sorted({row["hardware"]["gpu"] for row in done if row["hardware"]["gpu"]})
    where = f" on {' and '.join((*machines, *gpus))}" if machines else ""
    prompts = sorted({len(row["scores"]) for row in done})
    on = f" on {' or '.join(map(str, prompts))} held-out prompts" if prompts else ""
    by = " and ".join(sorted({judges.who(row) for row in done}))
    what = "Gold is the judge's mean score" if judges.scored(rows) == judges.GOLD else f"A score is the mean by {by}"
    return (
        f"Seeds {seeds}{where}; every algorithm has {budget} for all of its training stages. "
        f"{what}{on}; intervals of 95% are the wider of a bootstrap over seeds and prompts and of Student's over the "
        "means of the seeds; KL is to the base in nats a response. Seconds and memory are of processes that shared the "
        "machine."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
