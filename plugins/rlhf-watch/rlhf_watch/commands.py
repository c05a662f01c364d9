"""The commands. What one needs is imported inside it, so that `rlhf --help` answers at once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rlhf_plugins import hookimpl


def compare(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="BASELINE [OTHER]...", help="Runs, RUN#POLICY, or JSON lines of scored responses."),
    ] = [],  # noqa: B006, which typer copies
    prompts: Annotated[
        int | None, typer.Option(min=2, help="Without sources: what a comparison on this many prompts can show.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Without sources: prompts that a win rate needs.")
    ] = None,
    power: Annotated[float, typer.Option(min=0.01, max=0.999, help="Of --prompts and --rate.")] = 0.8,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare policies with a baseline on the same prompts: win rate, tests, sample size.

    Of a run alone the policies are compared with its reference. `--rate 0.55` says before anything is judged how many
    prompts are needed, `--prompts 200` what they can show.
    """
    from rlhf_watch.ab import wording

    if sources:
        from rlhf_watch.ab.comparison import compare as compared

        found = compared(sources)
        if as_json:
            import json

            typer.echo(json.dumps([wording.record(one) for one in found], indent=2))
        else:
            say("\n".join(wording.lines(found)))
        return
    if rate is None and prompts is None:
        raise typer.BadParameter("name what is compared, or plan with --rate or --prompts")
    for line in wording.plan(rate, prompts, power):
        say(line)


def say(text: str) -> None:
    """Prints text, with what could steer a terminal written out."""
    typer.echo("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text))


@hookimpl
def register_commands() -> dict[str, Any]:
    """The commands of this file."""
    return {"compare": compare}
