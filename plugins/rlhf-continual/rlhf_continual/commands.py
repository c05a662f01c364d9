"""`rlhf update`: the command. What it needs is imported inside it, so that `rlhf --help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rlhf_plugins import hookimpl


def update(
    run: Annotated[str, typer.Argument(metavar="RUN[#STAGE]", help="The policy to train further.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A file with new pairs.")],
    out: Annotated[Path, typer.Option(help="The folder of the new run.")],
    strength: Annotated[
        float, typer.Option(min=0, help="Of `ewc`, which holds old behaviour; 0 does without.")
    ] = 100.0,
    prompts: Annotated[int, typer.Option(min=2, help="Held-out prompts of old and of new data.")] = 256,
    tolerance: Annotated[float, typer.Option(min=0, help="A mean loss on old data that may be.")] = 0.0,
    dry: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and run nothing.")] = False,
) -> None:
    """Train a policy of an old run on new data, and measure what it lost on the old.

    The stage is trained again with its own options, from its own policy. Run it again to go on after an interruption.
    """
    import yaml

    from rlhf_continual.update import changes, recipe
    from rlhf_plugins import open_run, run_recipe

    rows = {"format": "preference", "source": str(data.resolve())}
    keep = [{"use": "ewc", "strength": strength}] if strength else []
    words = recipe(run, rows, out, keep=keep, prompts=prompts)
    if dry:
        typer.echo(yaml.safe_dump(words, sort_keys=False))
        return
    run_recipe(words, resume=(out / "status.json").exists())
    for change in changes(open_run(out)):
        mean = f"{change.before:.3f} {change.mean:+.3f} (95% CI {change.low:+.3f} to {change.high:+.3f})"
        shown = f"; {change.kept(tolerance)}" if change.data == "old" else ""
        typer.echo(f"{change.data} data, {change.prompts} prompts, by {change.judge}: {mean}{shown}")


@hookimpl
def register_commands() -> dict[str, Any]:
    """The command of this file."""
    return {"update": update}
