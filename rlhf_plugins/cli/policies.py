"""`rlhf generate`: a trained policy answers the prompts of a file."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
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
SAMPLING: dict[str, tuple[Any, float]] = {  # name -> annotation, default
    "temperature": (
        Annotated[float, typer.Option(min=0.0, help="Divides the logits; 0 takes the likeliest token.")],
        1.0,
    ),
    "top_p": (
        Annotated[float, typer.Option(min=0.0, max=1.0, help="Samples from the likeliest tokens with this share.")],
        1.0,
    ),
    "top_k": (
        Annotated[int, typer.Option(min=0, help="Samples from so many of the likeliest tokens; 0: from all.")],
        0,
    ),
    "min_p": (
        Annotated[
            float, typer.Option(min=0.0, max=1.0, help="Samples from tokens this share as likely as the likeliest.")
        ],
        0.0,
    ),
    "repetition_penalty": (
        Annotated[float, typer.Option(min=0.0, help="Above 1: makes tokens of the text so far less likely.")],
        1.0,
    ),
}
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Where a response is cut.")]
Seed = Annotated[int, typer.Option(help="Of the sampling.")]


def with_sampling(temperature: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command that takes `**how` the options of sampling: a function may have at most seven written out.

    Args:
        temperature: its default.
    """
    options = {**SAMPLING, "temperature": (SAMPLING["temperature"][0], temperature)}

    def given(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            one
            for one in signature(command, eval_str=True).parameters.values()
            if one.kind is not Parameter.VAR_KEYWORD
        ]
        further = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ]
        command.__annotations__ |= {name: annotation for name, (annotation, _) in options.items()}
        command.__signature__ = Signature([*own, *further])  # type: ignore[attr-defined]
        return command

    return given


@with_sampling(temperature=1.0)
def generate(
    model: PolicyArgument,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Prompts: JSON lines, JSON, CSV, Parquet, a hub name, or a .txt file.")
    ],
    out: Annotated[Path | None, typer.Option(help="The file to write; FILE.responses.jsonl if not given.")] = None,
    n: Annotated[int, typer.Option(min=1, help="Responses to a prompt.")] = 1,
    max_new_tokens: MaxNewTokens = 256,
    seed: Seed = 0,
    **how: Any,
) -> None:
    """Write a policy's responses to the prompts of a file as JSON lines; run it again to go on after an interruption.

    A row has a prompt, or is preference data of any format; `rlhf score` reads what is written.
    """
    from rlhf_plugins.engine.sampling import Decoding
    from rlhf_plugins.saved.generating import generate_file

    done = generate_file(model, file, out, n, Decoding(max_new_tokens, seed=seed, **how))
    before = f", {done.before} of them answered before" if done.before else ""
    cut = f", {done.cut} responses cut at {max_new_tokens} tokens" if done.cut else ""
    blank = f", {done.blank} blank line{'s' * (done.blank > 1)} skipped" if done.blank else ""
    for note in done.notes:
        echo(note, err=True)
    echo(f"{done.out}: {done.rows} prompts{before}{blank}{cut}")


@hookimpl
def register_commands() -> dict[str, Any]:
    """The commands of this file."""
    return {"generate": generate}
