"""A table, as Markdown and as HTML, and how its numbers are written."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from rlhf_bench.intervals import Estimate


class Table(NamedTuple):
    """Rows of text under a header; a title and a sentence before them, either of which may be empty."""

    title: str
    about: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(table: Table) -> list[str]:
    """Its lines."""
    before = [f"## {table.title}", ""] * bool(table.title) + [table.about, ""] * bool(table.about)
    header = ["| " + " | ".join(table.header) + " |", "|" + " --- |" * len(table.header)]
    return [*before, *header, *("| " + " | ".join(row) + " |" for row in table.rows)]


def as_html(table: Table) -> str:
    """The same."""
    title = f"<h2>{html.escape(table.title)}</h2>" if table.title else ""
    about = f"<p>{html.escape(table.about)}</p>" if table.about else ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"{title}{about}<table><tr>{head}</tr>{body}</table>"


def shown(value: Estimate | None, sign: str = "") -> str:
    """A mean, with its interval where it has one; a dash for None."""
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.mean:{sign}.2f}"
    return f"{value.mean:{sign}.2f} [{value.low:{sign}.2f}, {value.high:{sign}.2f}]"


def number(value: float | None, form: str) -> str:
    """A number in a form of `format`; a dash for None."""
    return "-" if value is None else f"{value:{form}}"
