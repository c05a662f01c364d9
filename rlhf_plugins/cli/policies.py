"""`rlhf generate`: a trained policy answers the prompts of a file. It parses and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rlhf_plugins.cli.echo import echo
from rlhf_plugins.contract.hookspecs import hookimpl

PolicyArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN[#STAGE]",
        help="A run's folder, with the stage that made the policy (`base`: untrained); the last one if none is given.",
    ),
]
Temperature = Annotated[float, typer.Option(min=0.0, help="Divides the logits; 0 takes the likeliest token.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Where a response is cut.")]
Seed = Annotated[int, typer.Option(help="Of the sampling.")]


def generate(
    model: PolicyArgument,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Prompts: JSON lines, JSON, CSV, Parquet, a hub name, or a .txt file.")
    ],
    out: Annotated[Path | None, typer.Option(help="The file to write; FILE.responses.jsonl if not given.")] = None,
    n: Annotated[int, typer.Option(min=1, help="Responses to a prompt.")] = 1,
    temperature: Temperature = 1.0,
    max_new_tokens: MaxNewTokens = 256,
    seed: Seed = 0,
) -> None:
    """Write a policy's responses to the prompts of a file as JSON lines; run it again to go on after an interruption.

    A row has a prompt, or is preference data of any format; `rlhf score` reads what is written.
    """
    from rlhf_plugins.engine.sampling import Decoding
    from rlhf_plugins.saved.generating import generate_file

    done = generate_file(model, file, out, n, Decoding(max_new_tokens, temperature, seed))
    before = f", {done.before} of them answered before" * bool(done.before)
    cut = f", {done.cut} responses cut at {max_new_tokens} tokens" * bool(done.cut)
    if done.note:
        echo(done.note, err=True)
    echo(f"{done.out}: {done.rows} prompts{before}{cut}")


@hookimpl
def register_commands() -> dict[str, Any]:
    """The commands of this file."""
    return {"generate": generate}
