"""A suite's table as JSON, Markdown and one HTML page. It knows lines and sentences, not how they were measured."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_bench import frontier
from rlhf_bench.intervals import Estimate
from rlhf_bench.measures import Row
from rlhf_bench.suite import Suite
from rlhf_bench.table import Line, lines, notes, verdicts

HEADER = (
    "task", "algorithm", "seeds", "gold reward", "gain over", "p (Holm)", "sd over seeds", "KL", "out of distribution",
    "win rate", "length", "distinct-2", "seconds", "TFLOPs", "budget used", "GiB", "90% at step",
)  # fmt: skip
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: left; white-space: nowrap; }
svg { max-width: 100%; } svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
"""
LEFT, WIDTH, HEIGHT = 210, 460, 22  # pixels: of labels, of the scale, of a row


def write(suite: Suite, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes bench.json, bench.md and bench.html."""
    found = lines(suite, rows)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"suite": suite.name, "about": suite.about, "seeds": suite.seeds, "budget": suite.budget}
    content: dict[str, Any] = {
        **about,
        "baseline": suite.baseline,
        "lines": [line.record() for line in found],
        "runs": list(rows),
    }
    content["frontiers"] = [asdict(one) for one in frontier.frontiers(suite, found)]
    pages = {
        "bench.json": json.dumps(content, indent=1, allow_nan=False) + "\n",
        "bench.md": markdown(suite, rows, found),
        "bench.html": page(suite, rows, found),
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


def markdown(suite: Suite, rows: Sequence[Row], found: Sequence[Line]) -> str:
    """The page for docs."""
    header = [name if name != "gain over" else f"gain over {suite.baseline}" for name in HEADER]
    text = [
        f"# {suite.name}",
        "",
        " ".join(part for part in (suite.about, _where(suite, rows)) if part),
        "",
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(HEADER),
        *("| " + " | ".join(cells(line)) + " |" for line in found),
        "",
        *(f"- {sentence}" for sentence in (*verdicts(suite, found), *notes(suite, rows, found))),
    ]
    return "\n".join([*text, *frontier.table(frontier.frontiers(suite, found))]).rstrip() + "\n"


def page(suite: Suite, rows: Sequence[Row], found: Sequence[Line]) -> str:
    """The same as HTML, with a plot of the intervals for each task."""
    header = [name if name != "gain over" else f"gain over {suite.baseline}" for name in HEADER]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(line)) + "</tr>" for line in found
    )
    said = "".join(f"<li>{html.escape(one)}</li>" for one in (*verdicts(suite, found), *notes(suite, rows, found)))
    title = html.escape(suite.name)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1><p>{html.escape(suite.about)} {html.escape(_where(suite, rows))}</p>"
        f"{''.join(_plots(suite, found))}<table><tr>{head}</tr>{body}</table><ul>{said}</ul></html>\n"
    )


def cells(line: Line) -> list[str]:
    """One line of the table."""
    mean = line.means
    return [
        line.task,
        line.algorithm,
        str(len(line.seeds)),
        shown(line.gold),
        shown(line.gain, sign="+") if line.gain else "-",
        _number(line.p, ".3f"),
        _number(line.spread, ".2f"),
        _number(mean["kl"], ".2f"),
        _number(mean["out_of_distribution"], ".2f"),
        _number(mean["win_rate"], ".2f"),
        _number(mean["length"], ".1f"),
        _number(mean["distinct_2"], ".2f"),
        _number(mean["seconds"], ".0f"),
        _number(mean["flops"] and mean["flops"] / 1e12, ".2f"),
        _number(mean["spent"], ".0%"),
        _number(mean["peak_bytes"] and mean["peak_bytes"] / 2**30, ".2f"),
        _number(mean["converged_step"], ".0f"),
    ]


def shown(value: Estimate, sign: str = "") -> str:
    """A mean, with its interval where it has one."""
    if value.low is None or value.high is None:
        return f"{value.mean:{sign}.2f}"
    return f"{value.mean:{sign}.2f} [{value.low:{sign}.2f}, {value.high:{sign}.2f}]"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


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
    return (
        f"Seeds {seeds}{where}; every algorithm has {budget} for all of its training stages. Gold is the judge's mean "
        f"score{on}, intervals are 95% of a bootstrap over seeds and prompts, KL is to the base in nats a response. "
        "Seconds share the machine with other work."
    )


def _plots(suite: Suite, found: Sequence[Line]) -> Iterator[str]:
    """Gold with its interval, a row per algorithm, a plot per task."""
    bounds = [v for line in found for v in (line.gold.low, line.gold.high, line.gold.mean) if v is not None]
    if not bounds:
        return
    low, high = min(bounds), max(bounds)
    scale = WIDTH / ((high - low) or 1.0)
    for task in suite.tasks:
        mine = [line for line in found if line.task == task]
        marks = "".join(_mark(line, row, low, scale) for row, line in enumerate(mine))
        size = f'width="{LEFT + WIDTH + 80}" height="{HEIGHT * len(mine) + 30}"'
        ticks = "".join(
            f'<text x="{LEFT + (value - low) * scale:.0f}" y="{HEIGHT * len(mine) + 18}">{value:.2f}</text>'
            for value in (low, (low + high) / 2, high)
        )
        about = html.escape(f"{task}: {suite.tasks[task]}".rstrip(": "))
        yield f'<h2>{about}</h2><svg role="img" aria-label="gold reward on {about}" {size}>{marks}{ticks}</svg>'


def _mark(line: Line, row: int, low: float, scale: float) -> str:
    y, x = HEIGHT * row + 14, LEFT + (line.gold.mean - low) * scale
    bar: Any = ""
    if line.gold.low is not None and line.gold.high is not None:
        ends = [LEFT + (value - low) * scale for value in (line.gold.low, line.gold.high)]
        bar = f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}" stroke="currentColor" stroke-width="2"/>'
    label = f'<text x="0" y="{y + 4}">{html.escape(line.algorithm)}</text>'
    return f'{label}{bar}<circle cx="{x:.1f}" cy="{y}" r="4" fill="currentColor"/>'
