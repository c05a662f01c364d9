"""`rlhf estimate`: the memory of a recipe on a GPU, before any weight is loaded. It parses and prints."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from rlhf_plugins.cli.echo import confirmed, echo, echo_whole
from rlhf_plugins.contract.hookspecs import hookimpl

TOO_LARGE = 1  # exit code


def estimate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a bundled recipe.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, as of `rlhf run`.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="A card or its memory: rtx4090, 12GB; this machine's where left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print bytes, for other programs.")] = False,
    fit: Annotated[bool, typer.Option("--fit", help="Fewer tokens or rows at once, in the same batch.")] = False,
    trust_plugins: Annotated[bool, typer.Option("--trust-plugins", help="Run the code of the files it names.")] = False,
) -> None:
    """Forecast the memory of each stage on a GPU, and what would fit; no weights are loaded.

    Exit code 1 where the card does not hold a stage.
    """
    from rlhf_plugins.forecast import advice, words
    from rlhf_plugins.forecast.cards import card, present
    from rlhf_plugins.forecast.forecast import forecast
    from rlhf_plugins.recipe.check import load_recipe, named_files
    from rlhf_plugins.registry.trust import ask

    given = tuple(overrides or ())
    ask(named_files(recipe, given), trust_plugins, confirmed(), recipe)
    on = card(gpu) if gpu else present()
    if fit:
        given, found = advice.fitted(recipe, given, on)
    else:
        found = forecast(load_recipe(recipe, given), on)
    if as_json:
        echo_whole(json.dumps({**found.json(), **({"overrides": given} if fit else {})}, indent=2))
    else:
        for line in words.lines(found, advice.advised(recipe, given, on)):
            echo(line)
        if fit and given != tuple(overrides or ()):
            echo(f"{'does not fit even' if found.too_large else 'fits'} with: {' '.join(given)}")
    if found.too_large:
        raise typer.Exit(TOO_LARGE)


@hookimpl
def register_commands() -> dict[str, Any]:
    """The command of this file."""
    return {"estimate": estimate}
