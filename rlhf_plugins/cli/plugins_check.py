"""`rlhf plugins check`: the conformance kit from the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_plugins.cli.echo import echo
from rlhf_plugins.errors import PluginError, nearest

if TYPE_CHECKING:
    from rlhf_plugins.testing import Subject
    from rlhf_plugins.testing.conformance import Property

FOUND = 1  # exit code

Name = Annotated[str, typer.Argument(help="A component; or a distribution or a .py file, for all of its components.")]
Options = Annotated[
    list[str] | None,
    typer.Argument(metavar="[OPTION=VALUE]...", help="Options of the component under test, such as source=rows.jsonl."),
]


def check(
    name: Name,
    options: Options = None,
    kind: Annotated[str | None, typer.Option(help="Of the component, where two kinds share the name.")] = None,
) -> None:
    """Test the properties of a component: shapes, gradients, masks, options, state and more."""
    from transformers.utils.logging import disable_progress_bar

    from rlhf_plugins.testing import Finding, properties_of
    from rlhf_plugins.testing.conformance import outcome

    disable_progress_bar()  # of tiny models that load in a moment
    failed = 0
    for subject in _subjects(name, kind, _read(options or ())):
        tried = properties_of(subject.kind, subject.registry)
        outcomes = [said for one in _announced(subject, tried) if (said := outcome(subject, one))]
        found = [one for one in outcomes if isinstance(one, Finding)]
        failed += len(found)
        echo(f"{subject}: {len(tried) - len(outcomes)} of {len(tried)} properties hold")
        if untried := [one for one in outcomes if not isinstance(one, Finding)]:
            echo(f"  {len(untried)} not tried, since it refuses the run that it is tried with: {untried[0]}")
        for finding in found:
            echo(f"\n{finding}\n")
    if failed:
        raise typer.Exit(FOUND)


def _announced(subject: Subject, tried: Sequence[Property]) -> Iterator[Property]:
    """The properties in order; standard error says what the next ones are about, and how many."""
    counts = Counter(map(_about, tried))
    for one in tried:
        if (about := _about(one)) in counts:
            echo(f"{subject}: {about}, {counts.pop(about)} of {len(tried)} properties", err=True)
        yield one


def _about(one: Property) -> str:
    return one.holds.__module__.rpartition(".")[2]


def _subjects(name: str, kind: str | None, options: dict[str, Any]) -> Sequence[Subject]:
    from rlhf_plugins.testing import Subject, subjects_in
    from rlhf_plugins.testing.conformance import subjects_of

    found = subjects_in(Path(name), options) if name.endswith(".py") else subjects_of(name, options)
    if not found:
        return [Subject.of(name, kind, options)]
    chosen = [one for one in found if kind in (None, one.kind)]
    if not chosen:
        raise PluginError(
            f"{name} has no component of the kind {kind!r} {nearest(str(kind), {one.kind for one in found})}"
        )
    return chosen


def _read(options: Sequence[str]) -> dict[str, Any]:
    """The options with their YAML values. Raises PluginError for a word that is not `key=value`."""
    from rlhf_plugins.recipe.overrides import parsed

    found = {}
    for option in options:
        try:
            keys, value = parsed(option, "an option")
        except ValueError as error:
            raise PluginError(f"{option!r}: {error}") from error
        found[".".join(keys)] = value
    return found
