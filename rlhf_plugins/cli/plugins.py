"""`rlhf plugins`: the installed components and their sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rlhf_plugins.cli.echo import confirmed, echo
from rlhf_plugins.contract.hookspecs import hookimpl

plugins = typer.Typer(help="List, show, check, write, disable and enable plugins.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="PLUGIN", help="Its name in the output of `rlhf plugins list`.")]


@plugins.command("list")
def list_plugins(kind: Annotated[str | None, typer.Option(help="Only components of this kind.")] = None) -> None:
    """List every component: kind, name, plugin, distribution, version and status; then what did not load, and why."""
    from rlhf_plugins.registry.registry import commands, registry

    both = (registry(),) if kind else (registry(), commands())
    names = {(kind, name) for name in registry().names(kind)} if kind else None
    for found in both:
        for component in found.describe():
            key = component.kind, component.name
            if names is None or key in names:
                status = "ok" if found.fault(*key) is None else "registered twice"
                where = f"{component.plugin.distribution} {component.plugin.version}"
                echo(f"{component.kind:<16} {component.name:<24} {component.plugin.name:<34} {where}  {status}")
    for found in both:
        for left_out in found.unloaded:
            echo(f"{'-':<16} {'-':<24} {left_out}")


@plugins.command("show")
def show_plugin(kind: str, name: str) -> None:
    """Show a component: what it does, its options with types, defaults and help, and where it comes from."""
    from inspect import getdoc, getsourcefile, getsourcelines

    from rlhf_plugins.recipe.options import options
    from rlhf_plugins.registry.registry import registry

    cls = registry().get(kind, name)
    echo(f"{kind} {name}, from {registry().find(cls).plugin}\n\n{getdoc(cls)}\n\noptions:")
    for option in options(cls).values():
        echo(f"  {option}")
    if not options(cls):
        echo("  none")
    if traits := [f"{name} = {getattr(cls, name)!r}" for name in _own_traits(cls)]:
        echo("\ntraits: " + ", ".join(traits))
    echo(f"\nsource: {getsourcefile(cls)}:{getsourcelines(cls)[1]}")


def _own_traits(cls: Any) -> list[str]:
    """The traits that a component has other than its kind's default, and that do not follow its options."""
    own = {name: vars(cls).get(name, one.default) for name, one in cls.traits.items()}
    return [
        name for name, one in cls.traits.items() if own[name] != one.default and not isinstance(own[name], property)
    ]


@plugins.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the package, such as rlhf-focal.")],
    kind: Annotated[str, typer.Option(help="Of its component, such as reward_loss.")],
) -> None:
    """Start a package with one component, in a folder of its name: it installs, passes the kit and runs at once."""
    from rlhf_plugins.authoring.new import new
    from rlhf_plugins.registry.registry import registry

    files = new(name, kind, registry=registry())
    for file in files:
        echo(str(file))
    runs = "; rlhf run recipe.yaml" if any(file.name == "recipe.yaml" for file in files) else ""
    echo(f"next: cd {name}; pip install --editable .; pytest{runs}")


@plugins.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The fault.json that a failed stage left.")],
    trust_plugins: Annotated[
        bool, typer.Option("--trust-plugins", help="Run the code of files that it names.")
    ] = False,
) -> None:
    """Repeat a component's failed call on the same batch, with the component as it is now.

    Exit code 0 where it succeeds, 2 where it fails again.
    """
    import traceback

    from rlhf_plugins.registry.registry import registry
    from rlhf_plugins.registry.trust import ask
    from rlhf_plugins.run.replay import named_files, replay

    ask(named_files(file), trust_plugins, confirmed(), str(file))
    then, again = replay(file, registry())
    echo(f"then: {then}")
    if again is None:
        echo("now: the call succeeds")
        return
    if again.__cause__:
        echo("".join(traceback.format_exception(again.__cause__)), err=True)
    raise again


@plugins.command()
def disable(name: NameArgument) -> None:
    """Keep a plugin from loading, in every run of this user."""
    from rlhf_plugins.registry import discovery

    discovery.disable(name, _names())
    echo(f"{name}: disabled, by {discovery.disabled_file()}")


@plugins.command()
def enable(name: NameArgument) -> None:
    """Let a disabled plugin load again."""
    from rlhf_plugins.registry import discovery

    discovery.enable(name, _names())
    echo(f"{name}: enabled")


def _names() -> list[str]:
    """The names of all plugins, without importing one; our own commands cannot be disabled."""
    from rlhf_plugins.contract.hookspecs import COMMANDS, PROJECT
    from rlhf_plugins.registry.discovery import found
    from rlhf_plugins.registry.registry import BUILT_IN

    return [each.plugin.name for each in (*found(BUILT_IN, PROJECT), *found((), COMMANDS))]


@hookimpl
def register_commands() -> dict[str, typer.Typer]:
    """The commands of this file."""
    return {"plugins": plugins}
