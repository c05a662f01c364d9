"""Several reports in one table, and what keeps their numbers from being compared."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

from rlhf_plugins.report.schema import Report
from rlhf_plugins.report.settings import measured
from rlhf_plugins.report.table import COLUMNS, REFERENCE, cells, verbatim
from rlhf_plugins.report.verdict import specs
from rlhf_plugins.report.words import TASKS, cell, number, share

KEPT = (f"KL to {REFERENCE}", f"win rate vs {REFERENCE}", "seconds")  # of the columns of one report, after the score


def compared(reports: Mapping[str, Report]) -> Table:
    """A row for each policy of each report, by the reports' names."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for header in ("run", "policy"):
        table.add_column(header, overflow="fold")
    for header in ("score", *(name.replace(" vs ", "\nvs ").replace(" to ", "\nto ") for name in KEPT)):
        table.add_column(header, justify="right")
    for run, report in reports.items():
        for name, policy in report.policies.items():
            narrow = policy.model_copy(update={"kl_interval": None})  # no room for it in 80 columns
            chosen = cells(narrow, {name: COLUMNS[name] for name in KEPT})
            table.add_row(*map(verbatim, (run, name, *(cell.unspaced for cell in chosen))))
    return table


def compared_tasks(reports: Mapping[str, Report]) -> Table | None:
    """A row for each task, report and policy, without the differences within a run; None where there is no task."""
    found = [
        (str(row["task"]), run, *(cell(row.get(name)) for name in ("policy", "rows", "share")))
        for run, report in reports.items()
        for stage in report.stages
        for section in stage.sections
        if section.title == TASKS
        for row in section.rows
    ]
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for header in ("task", "run", "policy", "rows", "share"):
        table.add_column(header, justify="right" if header == "rows" else "left", overflow="fold")
    for line in sorted(found, key=lambda line: line[0]):
        table.add_row(*map(verbatim, line))
    return table if found else None


def compared_reward_models(reports: Mapping[str, Report]) -> Table:
    """A row for each measured reward model of each report."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for header in ("run", "reward model", "accuracy", "held-out pairs", "calibration error"):
        table.add_column(header, justify="left" if header in ("run", "reward model") else "right")
    for run, report in reports.items():
        for name, model in report.measured_reward_models.items():
            interval = model.accuracy_interval
            within = f" [{share(interval.low)},{share(interval.high)}]" if interval else ""
            row = (run, name, f"{share(model.accuracy)}{within}", str(model.n), number(model.ece))
            table.add_row(*map(verbatim, row))
    return table


def obstacles(reports: Mapping[str, Report]) -> list[str]:
    """Sentences on what differs between the reports so that their scores are not on one scale."""
    judged = {run: report for run, report in reports.items() if report.policies}
    found = [f"{run}: no policy was evaluated." for run in reports if run not in judged]
    asked = {
        "The scores are by different judges": {run: _judge(run, report) for run, report in judged.items()},
        "The references differ": {run: report.reference or "none" for run, report in judged.items()},
        "The numbers of prompts differ": {
            run: str(max(policy.n for policy in report.policies.values())) for run, report in judged.items()
        },
        "The bases differ": {run: str(report.recipe.get("base")) for run, report in judged.items()},
        "The responses are sampled otherwise": {
            run: how for run, report in judged.items() if (how := measured(specs(report)))
        },
        "The data differ": {run: _data(report) for run, report in judged.items()},
    }
    for what, values in asked.items():
        if len(set(values.values())) > 1:
            found.append(f"{what}: {', '.join(f'{run} {value}' for run, value in values.items())}.")
    return found


def _judge(run: str, report: Report) -> str:
    """What the scores are called and, where that does not say what gave them, which function or weights did."""
    judge = report.judge
    if judge is None or judge.kind in ("gold", "loss"):
        return report.score_name
    which = f"{judge.stage} {judge.digest[:8] or f'of {run}'}" if judge.stage else judge.name
    return f"{report.score_name} ({which})" if which else report.score_name


def _data(report: Report) -> str:
    data = report.recipe.get("data")
    words = data.get("source") or data.get("format") if isinstance(data, dict) else data
    return f"{words} ({report.data.train} and {report.data.test} groups)"
