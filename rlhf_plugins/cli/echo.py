"""Printing, for all commands: control characters in a text, which could steer the terminal, are written out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from rlhf_plugins.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table


def echo(text: object = "", err: bool = False, nl: bool = True) -> None:
    """Prints text with its control characters written out."""
    typer.echo(shown(str(text)), err=err, nl=nl)


def echo_whole(text: str) -> None:
    """Prints what another program reads, such as a schema: nothing is cut."""
    typer.echo(text)


def echo_table(table: Table) -> None:
    """Prints a table, whose cells are `verbatim`."""
    from rich.console import Console

    Console().print(table)


def confirmed() -> Callable[[str], bool] | None:
    """Asks the user a question, yes or no; None where no user is at a terminal."""
    return (lambda question: typer.confirm(shown(question), err=True)) if sys.stdin and sys.stdin.isatty() else None


def encodable() -> None:
    """Has a terminal that cannot show a character show its code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
