"""A run's report: numbers in, files and tables out."""

from __future__ import annotations

from rlhf_plugins.report.files import PAGE, read, show, write, write_seeds
from rlhf_plugins.report.machine import hardware, versions
from rlhf_plugins.report.reward_table import reward_table
from rlhf_plugins.report.summary import summary
from rlhf_plugins.report.table import rich_table, task_tables

__all__ = [
    "PAGE",
    "hardware",
    "read",
    "reward_table",
    "rich_table",
    "show",
    "summary",
    "task_tables",
    "versions",
    "write",
    "write_seeds",
]
