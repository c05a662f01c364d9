"""`rlhf plugins`: what is installed and where it comes from. It parses and prints; `registry` knows."""

from __future__ import annotations

from typing import Annotated

import typer

plugins = typer.Typer(help="What is installed, and what you add to it.", no_args_is_help=True)


@plugins.command("list")
def list_plugins(kind: Annotated[str | None, typer.Option(help="Only components of this kind.")] = None) -> None:
    """List every component, its kind and the plugin that it comes from."""
    from rlhf_plugins.registry import registry

    found = registry()
    names = {(kind, name) for name in found.names(kind)} if kind else None
    for component in found.describe():
        if names is None or (component.kind, component.name) in names:
            typer.echo(f"{component.kind:<16} {component.name:<24} {component.plugin}")


@plugins.command("show")
def show_plugin(kind: str, name: str) -> None:
    """Show a component: what it does, its options and where it comes from."""
    from inspect import getdoc

    from rlhf_plugins.recipe.options import options
    from rlhf_plugins.registry import registry

    cls = registry().get(kind, name)
    typer.echo(f"{kind} {name}, from {registry().find(cls).plugin}\n\n{getdoc(cls)}\n\noptions:")
    for option in options(cls).values():
        typer.echo(f"  {option}")
    if not options(cls):
        typer.echo("  none")
