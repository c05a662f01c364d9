"""`rlhf bench`: runs a suite and writes its table. It parses and prints; what it needs is imported inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rlhf_plugins import hookimpl

SUITES = (
    "three_ways",
    "more_ways",
    "strengths",
    "overfit",
    "stability",
    "frontier",
    "over_optimisation",
    "ensembles",
    "hybrids",
    "more_hybrids",
    "people",
    "selection",
)  # the bundled ones


def bench(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUITE] [KEY=VALUE]...",
            help=f"A YAML file, or one of {', '.join(SUITES)}; then other values, such as budget.flops=1.0e+12.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="With the values of the suite's block `quick`.")] = False,
    root: Annotated[Path, typer.Option("--runs", help="Where runs are kept, shared by suites.")] = Path("runs/bench"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed.")] = False,
    ratings: Annotated[
        Path | None, typer.Option(help="What people gave the policies: the folder of `rlhf collect export`.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Run nothing: write the table of what there is.")] = False,
) -> None:
    """Run tasks x algorithms x seeds on equal terms; run it again to go on after an interruption."""
    from rlhf_bench.bundled import find
    from rlhf_bench.measures import measure
    from rlhf_bench.pages import markdown, write
    from rlhf_bench.ratings import read as read_ratings
    from rlhf_bench.runs import run_all
    from rlhf_bench.suite import read
    from rlhf_bench.table import lines

    suite, overrides = parted(words or [])
    found = read(find(suite), quick, overrides)
    rated = read_ratings(ratings) if ratings else None
    if not table:
        run_all(found.cells, root, jobs, retry, typer.echo)
    rows = measure(found, root, rated)
    files = write(found, rows, root / found.name)
    typer.echo(markdown(found, rows, lines(found, rows)))
    typer.echo("\n".join(map(str, files)))
    if bad := sum(row.get("status", "finished") != "finished" for row in rows):
        typer.echo(f"{bad} of {len(rows)} runs are not finished", err=True)
        raise typer.Exit(1)


def parted(words: Sequence[str]) -> tuple[str, list[str]]:
    """The suite, `three_ways` where the words begin with a value, and the values."""
    if words and (Path(words[0]).is_file() or "=" not in words[0]):
        return words[0], list(words[1:])
    return SUITES[0], list(words)


@hookimpl
def register_commands() -> dict[str, Any]:
    """The commands of this file."""
    return {"bench": bench}
