"""The table of policies, for terminal and page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from rlhf_plugins.errors import shown
from rlhf_plugins.report import words
from rlhf_plugins.report.recommendation import taken
from rlhf_plugins.report.schema import EvaluationReport, Interval, PolicyReport, Report, SectionReport

REFERENCE = "reference"
NORMALISED = "score 0-100"
Columns = dict[str, "Callable[[PolicyReport], Cell]"]


@dataclass(frozen=True)
class Cell:
    """The text of a cell, its interval, and the number that it sorts by."""

    main: str
    interval: str = ""
    value: float | None = None

    @property
    def unspaced(self) -> str:
        """The cell with its interval as one word, which a narrow terminal does not break."""
        return f"{self.main} {self.interval.replace(' ', '')}".rstrip()


def headers(report: Report | EvaluationReport) -> list[str]:
    """`policy` and one header a column, in the order of `cells`."""
    named = report.reference or ""
    short = named if 0 < len(named) <= len(REFERENCE) else REFERENCE  # a longer name would not fit 80 columns
    others = (name.replace(REFERENCE, short) for name in columns(report))
    return ["policy", f"{report.score_name} (mean, 95% CI)", *others]


def columns(report: Report | EvaluationReport) -> Columns:
    """The columns after the score; the normalised score only where a gold reward is known."""
    known = any(policy.normalised is not None for policy in report.policies.values())
    return {name: column for name, column in COLUMNS.items() if known or name != NORMALISED}


def cells(policy: PolicyReport, chosen: Columns) -> list[Cell]:
    """The cells of a policy after its name; `-` where there is no number."""
    return [_score(policy.gold), *(column(policy) for column in chosen.values())]


def rich_table(report: Report) -> Table:
    """The table for a terminal; it fits 80 columns, without the interval of KL; the policy to take is bold."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    (name_header, score_header, *rest), shown_columns = headers(report), columns(report)
    table.add_column(name_header, overflow="fold")
    table.add_column(verbatim(score_header.replace(" (", "\n(")), justify="right")
    for header, column in zip(rest, shown_columns.values(), strict=True):
        # Its last word on a line of its own; only a column of intervals gives way to a narrow terminal.
        table.add_column(verbatim("\n".join(header.rsplit(" ", 1))), justify="right", no_wrap=column is not _wins)
    best = taken(report)
    for name, policy in report.policies.items():
        found = cells(policy.model_copy(update={"kl_interval": None}), shown_columns)
        row = [name, *(cell.unspaced for cell in found)]
        table.add_row(*map(verbatim, row), style="bold" if name == best else "")
    return table


def task_tables(report: Report) -> list[Table]:
    """The tables of tasks, and of the parts of rewards, for a terminal, one an evaluation."""
    titles = (words.TASKS, words.PARTS)
    found = (section for stage in report.stages for section in stage.sections if section.title in titles)
    return [_plain(section) for section in found]


def _plain(section: SectionReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for column in section.columns:
        number = any(isinstance(row.get(column), int | float) for row in section.rows)
        table.add_column(verbatim(column), justify="right" if number else "left", overflow="fold")
    for row in section.rows:
        table.add_row(*(verbatim(words.cell(row.get(column))) for column in section.columns))
    return table


def verbatim(text: str) -> Text:
    """The text of a cell for a terminal, in which square brackets are no markup."""
    return Text(shown(text))


def _score(gold: Interval) -> Cell:
    return Cell(words.number(gold.mean), _range(gold, words.number), gold.mean)


def _wins(policy: PolicyReport) -> Cell:
    wins = policy.win_rate
    if wins is None:
        return Cell(words.NONE)
    return Cell(words.share(wins.mean), _range(wins, lambda bound: words.share(bound).removesuffix("%")), wins.mean)


def _kl(policy: PolicyReport) -> Cell:
    within = policy.kl_interval
    return Cell(
        words.number(policy.kl, 2),
        "" if within is None else _range(within, lambda bound: words.number(bound, 2)),
        policy.kl,
    )


def _range(interval: Interval, say: Callable[[float | None], str]) -> str:
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return ""
    return f"[{say(interval.low)}, {say(interval.high)}]"


COLUMNS: Columns = {
    NORMALISED: lambda policy: Cell(words.number(policy.normalised, 1), value=policy.normalised),
    f"KL to {REFERENCE}": _kl,
    f"win rate vs {REFERENCE}": _wins,
    "length": lambda policy: Cell(words.number(policy.length, 1), value=policy.length),
    "seconds": lambda policy: Cell(words.seconds(policy.seconds), value=policy.seconds),
    "peak memory": lambda policy: Cell(words.memory(policy.peak_bytes), value=policy.peak_bytes),
}
