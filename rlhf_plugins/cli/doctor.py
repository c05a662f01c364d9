"""`rlhf doctor`: what this machine has, and what it lacks."""

from __future__ import annotations

from typing import Any

import typer

from rlhf_plugins.cli.echo import echo
from rlhf_plugins.contract.hookspecs import hookimpl

FOUND = 1  # exit code


def doctor() -> None:
    """Try what a run needs: packages, GPU, quantization, fonts, plugins; say what is missing and what brings it.

    Exit code 1 where something that every run needs is missing; warnings and notes leave it 0.
    """
    from rlhf_plugins.run.doctor import examine

    checks = examine()
    for check in checks:
        echo(str(check))
    missing = [check.what for check in checks if check.state == "missing"]
    echo(f"\nmissing: {', '.join(missing)}" if missing else "\nnothing that a run needs is missing")
    if missing:
        raise typer.Exit(FOUND)


@hookimpl
def register_commands() -> dict[str, Any]:
    """The command of this file."""
    return {"doctor": doctor}
