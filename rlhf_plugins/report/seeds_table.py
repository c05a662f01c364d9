"""The numbers over seeds and settings as tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from rlhf_plugins.report.over_seeds import Groups, accuracies, rows
from rlhf_plugins.report.schema import Interval
from rlhf_plugins.report.table import verbatim
from rlhf_plugins.report.words import NONE, number, share


def seeds_table(groups: Groups) -> Table:
    """The rows for a terminal of 80 columns."""
    found = rows(groups)
    swept = any(row.setting for row in found)
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for header in (*["setting"] * swept, "policy"):
        table.add_column(header, overflow="fold")
    for header in ("seeds", "score", "over its start", "KL", "better"):
        table.add_column(header, justify="right")
    for row in found:
        values = [_cell(row.score), _cell(row.gain), NONE if row.kl is None else number(row.kl.mean, 2)]
        better = NONE if row.gain is None else f"{row.better}/{row.seeds}"
        cells = [*[row.setting] * swept, row.policy, str(row.seeds), *values, better]
        table.add_row(*map(verbatim, cells))
    return table


def accuracy_table(groups: Groups) -> Table | None:
    """A row for each measured reward model of each setting; None where none was measured."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for header in ("setting", "reward model", "seeds", "accuracy"):
        table.add_column(header, justify="left" if header in ("setting", "reward model") else "right")
    for setting, name, seeds, accuracy in accuracies(groups):
        table.add_row(*map(verbatim, (setting or NONE, name, str(seeds), _share(accuracy))))
    return table if table.row_count else None


def _cell(value: Interval | None) -> str:
    if value is None:
        return NONE
    if value.low is None or value.high is None:
        return number(value.mean)
    return f"{number(value.mean)} [{number(value.low)},{number(value.high)}]"


def _share(value: Interval) -> str:
    within = "" if value.low is None else f" [{share(value.low)},{share(value.high)}]"
    return f"{share(value.mean)}{within}"
