"""`rlhf recipes`: the recipes that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_plugins.cli.echo import echo
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.errors import RunError, nearest

recipes = typer.Typer(help="List the bundled recipes, or copy one to change it.", invoke_without_command=True)


@recipes.callback()
def list_recipes(ctx: typer.Context) -> None:
    """List the bundled recipes, or copy one to change it."""
    from rlhf_plugins.recipe.check import bundled

    if ctx.invoked_subcommand is not None:
        return
    found = bundled()
    width = max(map(len, found), default=0)
    for name, file in found.items():
        first = file.read_text(encoding="utf-8").partition("\n")[0].replace(f"recipes/{name}.yaml", name)
        echo(f"{name:<{width}} {first.removeprefix('#').strip() if first.startswith('#') else ''}".rstrip())


@recipes.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A bundled recipe.")],
    out: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="NAME.yaml if not given.")] = None,
) -> None:
    """Copy a bundled recipe, to be changed and run."""
    from rlhf_plugins.recipe.check import bundled
    from rlhf_plugins.recipe.source import write_new

    found, file = bundled(), out or Path(f"{name}.yaml")
    if name not in found:
        raise RunError(f"no bundled recipe {name!r} {nearest(name, found)}")
    text = found[name].read_text(encoding="utf-8").replace(f"recipes/{name}.yaml", file.as_posix())
    write_new(file, text)
    echo(f"{file}: run it with `rlhf run {file}`")


@hookimpl
def register_commands() -> dict[str, typer.Typer]:
    """The commands of this file."""
    return {"recipes": recipes}
