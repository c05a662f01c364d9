"""`rlhf export` and `rlhf score`: commands for a saved reward model. They parse and print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rlhf_plugins.cli.data import FileArgument, Options, data_format
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.errors import DataError, RunError

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A reward model: RUN[#STAGE], the last one if none is given, or its folder."),
]


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or an empty folder.")],
    stock: Annotated[
        bool, typer.Option("--stock", help="A classifier of transformers' own: a scalar head on the last token.")
    ] = False,
) -> None:
    """Write a reward model for AutoModelForSequenceClassification, to be opened after `import rlhf_plugins.auto`."""
    from rlhf_plugins.saved.interchange import export_reward_model

    export_reward_model(_folder(model), out, stock)
    typer.echo(str(out))


def score(
    model: ModelArgument,
    file: FileArgument,
    options: Options = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; FILE.scored.jsonl if not given.")] = None,
    format: Annotated[str | None, typer.Option("--format", help="A data_format component that reads the rows.")] = None,
    cache: Annotated[Path | None, typer.Option(help="A file of rewards scored before; writes rewards alone.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Write the rows of a file with their rewards as JSON lines; run it again to go on after an interruption.

    A row has a prompt and a response, a list of responses, or chosen and rejected.
    """
    from rlhf_plugins.saved.scoring import score_file

    if options and format is None:
        raise DataError(f"{options[0]}: is an option of a format, so --format must name one")
    read = data_format(file, options, format) if format else None
    done = score_file(_folder(model), file, out, read, cache, overwrite)
    typer.echo(f"{done.out}: {done.rows} rows" + f", {done.before} of them scored before" * bool(done.before))


def _folder(model: str) -> Path:
    """Where a reward model is saved. Raises RunError where it is not one in a folder."""
    from rlhf_plugins.saved.made import made

    found = made(model, "rewards")
    if found.folder is None:
        raise RunError(f"{found.label}: is not saved as a model in a folder, but made of other rewards: {found.spec}")
    return found.folder


@hookimpl
def register_commands() -> dict[str, Any]:
    """The commands of this file."""
    return {"export": export, "score": score}
