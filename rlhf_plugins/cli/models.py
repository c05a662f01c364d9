"""`rlhf export` and `rlhf score`: commands for saved models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_plugins.cli.data import FileArgument, Options, data_format
from rlhf_plugins.cli.echo import echo
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.errors import DataError, RunError

if TYPE_CHECKING:
    from rlhf_plugins.saved.run_reference import Made

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A reward model: RUN[#STAGE], the last one if none is given, or its folder."),
]


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="RUN[#STAGE]", help="A policy or a reward model of a run, or a saved model's folder."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or an empty folder.")],
    merge: Annotated[bool, typer.Option("--merge", help="Write a policy's adapter and its base as one model.")] = False,
    dtype: Annotated[
        str | None, typer.Option(help="bf16, fp16 or fp32; that of the base if not given, of a reward model fp32.")
    ] = None,
    stock: Annotated[
        bool, typer.Option("--stock", help="Of a reward model, a classifier of transformers' own: a scalar head.")
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="How far rewards may move without the quantization, as a share of the largest."),
    ] = 0.25,
) -> None:
    """Write a trained model for transformers, PEFT and what reads them, with its tokenizer and a filled-in card.

    A reward model becomes one for AutoModelForSequenceClassification, merged, to be opened after
    `import rlhf_plugins.auto`, or with --stock without it.
    """
    from rlhf_plugins.saved.run_reference import made

    found = made(model)
    if found.part == "rewards":
        from rlhf_plugins.saved.interchange import export_reward_model

        for line in export_reward_model(model, out, stock, dtype, tolerance):
            echo(line, err=True)
    else:
        _export_policy(found, out, stock, merge, dtype)
    echo(str(out))


def _export_policy(found: Made, out: Path, stock: bool, merge: bool, dtype: str | None) -> None:
    from rlhf_plugins.saved.policy_export import export_policy

    if stock:
        raise RunError(f"--stock is a form of reward models, and {found.label} is a policy: leave it out")
    done = export_policy(found, out, merge, dtype)
    if done.needs and Path(done.needs).is_dir():
        echo(f"the adapter needs its base {done.needs}; --merge writes a model that needs nothing", err=True)
    for line in (*([str(done.rounding)] if done.rounding else []), *done.notes):
        echo(line, err=True)


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
    from rlhf_plugins.contract import processes
    from rlhf_plugins.saved.scoring import score_file

    if options and format is None:
        raise DataError(f"{options[0]}: is an option of a format, so --format must name one")
    read = data_format(file, options, format) if format else None
    done = score_file(_reward(model), file, out, read, cache, overwrite)
    main = processes.is_main()
    processes.leave()
    if not main:
        return
    before = f", {done.before} of them scored before" if done.before else ""
    echo(f"{done.out}: {done.rows} rows{before}")


def _reward(model: str) -> Path | Made:
    """Where a reward model is saved, or what a run made of others. Raises RunError where it is neither."""
    from rlhf_plugins.saved.run_reference import made

    found = made(model, "rewards")
    found.check()
    return found.folder or found


@hookimpl
def register_commands() -> dict[str, Any]:
    """The commands of this file."""
    return {"export": export, "score": score}
