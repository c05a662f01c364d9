"""`rlhf runs`: lists runs, shows one, compares two, and deletes what is no longer needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_plugins.cli.echo import echo
from rlhf_plugins.contract.hookspecs import hookimpl

runs = typer.Typer(help="List runs, show one, compare two, and free disk space.", no_args_is_help=True)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


@runs.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="The folder that holds them.")] = Path("runs"),
) -> None:
    """List the runs in a folder: status, finished stages and their seconds, start, size."""
    from rlhf_plugins.report.words import memory
    from rlhf_plugins.run.files.catalogue import listed

    found = listed(folder)
    width = max((len(str(one.path)) for one in found), default=0)
    for one in found:
        done, started = f"{one.finished}/{one.stages} stages", one.started[:16].replace("T", " ")
        used = f"{one.seconds:>8.0f} s {memory(one.bytes):>9}"
        echo(f"{one.path!s:<{width}}  {one.status:<11} {done:<12} {started:<16} {used}")
    if not found:
        echo(f"{folder}: holds no run")


@runs.command()
def show(run: RunArgument) -> None:
    """Show a run's stages, what each made, and how to write that in other commands."""
    from rlhf_plugins.report.files import PAGE
    from rlhf_plugins.report.words import memory
    from rlhf_plugins.run.files import catalogue

    found = catalogue.find(run)
    status, recipe = found.status(), found.recipe()
    echo(f"{run}: {catalogue.state(found)}, started {status.get('started', '-')}, {memory(catalogue.size(run))}")
    if status.get("message"):
        echo(f"  {status['message']}")
    rows = status.get("data") or {}
    echo(f"base {recipe['base']}, {rows.get('train', 0)} groups to train on, {rows.get('test', 0)} held out")
    facts = catalogue.made_with(found)
    parts = {"seed": "seed", "rows": "rows.digest", "rlhf-plugins": "versions.rlhf-plugins", "torch": "versions.torch"}
    echo(", ".join(f"{word} {facts[key]}" for word, key in parts.items() if key in facts))
    for one in catalogue.stages(found):
        loss = "" if one.loss is None else f", loss {one.loss:.4g}"
        echo(f"  {one.name} ({one.stage}): " + (f"{one.seconds:.1f} s{loss}" if one.finished else "not finished"))
        if one.rows:
            echo(f"    its own data: {one.rows}")
        for made in (*one.made, *one.notes):
            echo(f"    {made}")
    if (page := run / PAGE).exists():
        echo(f"report {page}")


@runs.command()
def diff(old: RunArgument, new: RunArgument) -> None:
    """Print what differs between two runs: recipes, rows, files, code, versions, hardware, scores."""
    from rlhf_plugins.run.files import catalogue

    found = catalogue.differences(catalogue.find(old), catalogue.find(new))
    for key, ours, theirs in found:
        echo(f"{key}: {ours} -> {theirs}")
    if not found:
        echo("no difference")


@runs.command()
def prune(
    run: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs' folders.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete; otherwise only list what would be deleted.")] = False,
) -> None:
    """Delete checkpoints of finished stages and caches; models, results and reports stay."""
    from rlhf_plugins.report.words import memory
    from rlhf_plugins.run.files import catalogue

    total = 0
    for found in [catalogue.find(path) for path in run]:
        paths = catalogue.prunable(found)
        for path in paths:
            total += (size := catalogue.size(path))
            echo(f"{path}: {memory(size)}")
        if yes:
            catalogue.prune(found, paths)
    outcome = "deleted" if yes else "could be deleted: add --yes"
    echo(f"{memory(total)} {outcome}")


@hookimpl
def register_commands() -> dict[str, typer.Typer]:
    """The commands of this file."""
    return {"runs": runs}
