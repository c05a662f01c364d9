"""`rlhf estimate`: the memory of a recipe on a GPU, before any weight is loaded."""

from __future__ import annotations

import json
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_plugins.cli.echo import confirmed, echo, echo_whole
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.forecast.forecast import Forecast
    from rlhf_plugins.forecast.several import Cards
    from rlhf_plugins.recipe.assemble import Assembled

TOO_LARGE = 1  # exit code


OPTIONS: dict[str, tuple[Any, Any]] = {  # name -> how typer reads it, and its default
    "recipe": (
        Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a bundled recipe.")],
        Parameter.empty,
    ),
    "overrides": (
        Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, as of `rlhf run`.")],
        None,
    ),
    "gpu": (
        Annotated[str | None, typer.Option(help="A card or its memory: rtx4090, 12GB; this machine's where left out.")],
        None,
    ),
    "gpus": (Annotated[int, typer.Option(min=1, help="How many such cards train together.")], 1),
    "strategy": (
        Annotated[str | None, typer.Option(help="How they share a model: ddp (the default), fsdp, zero2, zero3.")],
        None,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print bytes, for other programs.")], False),
    "fit": (Annotated[bool, typer.Option("--fit", help="Fewer tokens or rows at once, in the same batch.")], False),
    "trust_plugins": (
        Annotated[bool, typer.Option("--trust-plugins", help="Run the code of the files it names.")],
        False,
    ),
}


def estimate(**given: Any) -> None:
    """Forecast the memory of each stage on a GPU or on several, and what would fit; no weights are loaded.

    Of a recipe with a sweep, the setting that needs most is shown. Exit code 1 where the card does not hold a stage.
    """
    from rlhf_plugins.forecast.cards import card, present

    named, cards = card(given["gpu"]) if given["gpu"] else None, _cards(given)  # before imports that take seconds
    from rlhf_plugins.forecast import advice, words
    from rlhf_plugins.forecast.forecast import forecast
    from rlhf_plugins.recipe.check import load_recipe, named_files
    from rlhf_plugins.registry.trust import ask

    recipe, overrides, fit = given["recipe"], tuple(given["overrides"] or ()), given["fit"]
    ask(named_files(recipe, overrides), given["trust_plugins"], confirmed(), recipe)
    on = named or present()
    own, setting = advice.largest(recipe, overrides, on)
    changed, found = advice.fitted(recipe, own, on) if fit else (own, forecast(load_recipe(recipe, own), on))
    if setting and not given["as_json"]:
        echo(f"of the sweep the setting that needs most: {setting}")
    if cards is not None:
        _show_several(found, load_recipe(recipe, own), cards, given["as_json"])
        return
    added = changed[len(own) :]
    if given["as_json"]:
        more = {**({"setting": setting} if setting else {}), **({"overrides": (*overrides, *added)} if fit else {})}
        echo_whole(json.dumps({**found.json(), **more}, indent=2))
    else:
        for line in words.lines(found, advice.advised(recipe, changed, on)):
            echo(line)
        if added:
            echo(f"{words.fitted(found)} with: {' '.join((*overrides, *added))}")
    if found.too_large:
        raise typer.Exit(TOO_LARGE)


def _cards(given: dict[str, Any]) -> Cards | None:
    """The cards that train together; None where there is one. Raises RunError for options that contradict another."""
    from rlhf_plugins.forecast.several import Cards

    if given["gpus"] == 1:
        if given["strategy"] is not None:
            raise RunError("--strategy: says how several cards share a model; write --gpus 2 or more")
        return None
    if given["fit"]:
        raise RunError("--fit: fits a recipe to one card; leave out --gpus")
    return Cards(given["gpus"], given["strategy"] or "ddp")


def _show_several(found: Forecast, assembled: Assembled, cards: Cards, as_json: bool) -> None:
    from rlhf_plugins.forecast import words
    from rlhf_plugins.forecast.several import spread

    each, traffic = spread(found, assembled, cards)
    if as_json:
        more = {name: vars(one) for name, one in traffic.items()}
        echo_whole(json.dumps({**each.json(), **vars(cards), "traffic": more}, indent=2))
    else:
        for line in words.of_several(each, cards, traffic):
            echo(line)
    if each.too_large:
        raise typer.Exit(TOO_LARGE)


# The options are data, so that typer reads one argument each: a function may have at most seven written out.
estimate.__annotations__ = {name: annotation for name, (annotation, _) in OPTIONS.items()}
estimate.__signature__ = Signature(  # type: ignore[attr-defined]
    [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in OPTIONS.items()
    ]
)


@hookimpl
def register_commands() -> dict[str, Any]:
    """The command of this file."""
    return {"estimate": estimate}
