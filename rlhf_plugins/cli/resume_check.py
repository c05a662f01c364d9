"""`rlhf resume-check`: whether a killed run of a recipe leaves what an undisturbed one leaves."""

from __future__ import annotations

import shutil
from typing import Annotated, Any

import typer

from rlhf_plugins.cli.echo import echo
from rlhf_plugins.contract.hookspecs import hookimpl

DIFFERS = 1  # exit code


def check(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a bundled recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as stages.ppo.trainer.max_steps=10."),
    ] = None,
    kills: Annotated[int, typer.Option(min=1, help="How often it is killed.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the times of the kills.")] = 0,
) -> None:
    """Run a recipe whole and killed again and again, and print which files differ; exit code 1 where one does.

    Without an override of `checkpoint`, one is made at every optimizer step. Both runs go to a new folder, which is
    deleted where nothing differs.
    """
    from rlhf_plugins.recipe.check import load_recipe, named_files
    from rlhf_plugins.registry.trust import ask
    from rlhf_plugins.run.resume_check import resume_check

    ask(named_files(recipe, overrides or ()), True, None, recipe)  # who runs it trusts it
    load_recipe(recipe, overrides or ())
    found = resume_check(recipe, overrides or (), kills, seed, echo)
    count = f"{len(found.killed_in)} kills"
    for sentence in found.differences:
        echo(sentence)
    if found.differences:
        echo(f"{len(found.differences)} differences after {count}; both runs are in {found.folder}")
        raise typer.Exit(DIFFERS)
    shutil.rmtree(found.folder)
    echo(f"no difference after {count}")


@hookimpl
def register_commands() -> dict[str, Any]:
    """The command of this file."""
    return {"resume-check": check}
