"""The commands. What one needs is imported inside it, so that `rlhf --help` answers at once."""

from __future__ import annotations

from pathlib import Path
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


watch = typer.Typer(help="Watch runs, and calibrate the alarms of their monitors.", no_args_is_help=True)


@watch.command()
def calibrate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Clean runs, or folders that hold them.")],
    out: Annotated[Path, typer.Option(help="The file to write; monitors read it as `thresholds`.")] = Path(
        "thresholds.json"
    ),
    rate: Annotated[float, typer.Option(min=1e-4, max=0.5, help="Of clean runs that may alarm.")] = 0.01,
) -> None:
    """Fit the thresholds of all monitors to clean runs, so that a fresh clean run alarms at a known rate.

    The runs were trained with the same monitors and without thresholds; all of them together keep to the rate.
    """
    from rlhf_watch.alarms.calibration import calibrate as calibrated

    found = calibrated(runs, rate)
    found.write(out)
    for name, entry in found.monitors.items():
        say(f"{name}: {entry['threshold']:.4g}")
    say(f"{out}: {found.runs} clean runs of up to {found.rollouts} rollouts; at most {rate:.1%} of such runs alarm")


def say(text: str) -> None:
    """Prints text, with what could steer a terminal written out."""
    typer.echo("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text))


@hookimpl
def register_commands() -> dict[str, Any]:
    """The commands of this file."""
    return {"compare": compare, "watch": watch}
