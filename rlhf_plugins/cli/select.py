"""`rlhf select`: which algorithm for these preferences, with reasons and a recipe."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_plugins.cli.echo import echo, echo_whole
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.selection import PRIORITIES
from rlhf_plugins.errors import DataError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlhf_plugins.contract.selection import Choice, Features, Resources

OPTIONS: dict[str, tuple[Any, Any]] = {  # name -> how typer reads it, and its default
    "data": (
        Annotated[str, typer.Argument(metavar="DATA", help="A file of preferences, a hub name, or `sandbox`.")],
        Parameter.empty,
    ),
    "options": (
        Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options of the data's format.")],
        None,
    ),
    "format": (Annotated[str | None, typer.Option(help="A data_format; guessed if not given.")], None),
    "vram": (Annotated[str | None, typer.Option(help="Memory of the GPU, such as 12GB.")], None),
    "hours": (Annotated[float | None, typer.Option(min=0.01, help="Of training.")], None),
    "online": (Annotated[str | None, typer.Option(help="yes or no: sample and score while it trains.")], None),
    "live_reward": (Annotated[bool, typer.Option("--live-reward", help="The reward is a live judge.")], False),
    "staged": (Annotated[bool, typer.Option("--staged", help="Several trainings may follow one another.")], False),
    "latency": (Annotated[float | None, typer.Option(min=0.0, help="Seconds in which a response comes.")], None),
    "update_every": (Annotated[float | None, typer.Option(min=0.0, help="Hours until it is trained again.")], None),
    "priority": (Annotated[str | None, typer.Option(help=f"{', '.join(PRIORITIES)}.")], None),
    "selector": (Annotated[str, typer.Option(help="A selector component.")], "rules"),
    "base": (Annotated[str | None, typer.Option(help="The model of the recipe and of the costs.")], None),
    "unsampled": (
        Annotated[bool, typer.Option("--no-sampling", help="Load no base to see if it would write the responses.")],
        False,
    ),
    "trial": (
        Annotated[float | None, typer.Option(min=1.0, help="Seconds for each training, to time it on this machine.")],
        None,
    ),
    "out": (Annotated[Path, typer.Option(help="The recipe to write.")], Path("selected.yaml")),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print the answer for other programs.")], False),
}
RESOURCES = ("vram", "hours", "online", "live_reward", "staged", "latency", "update_every", "priority")


def select(**given: Any) -> None:
    """Rank DPO, IPO and PPO for preferences and resources, with reasons and costs, and write the recipe of the first.

    Costs are of the trainings of each algorithm on the base: steps, tokens and peak memory. Nothing is trained but for
    --trial, which says how long they take; the base that is named is sampled, to see whether the rows' responses are
    its own.
    """
    from rlhf_plugins.run.selection import selecting

    words = (given["selector"], given["base"], not given["unsampled"], given["trial"])
    found = selecting.select(_data(given), _resources(given), *words)
    selecting.write(found.recipe, found.choices[0], given["out"])
    if given["as_json"]:
        echo_whole(json.dumps(found.json(), indent=2))
        return
    of = f"costs are of the base {found.recipe['base']}" + ("" if given["base"] else "; --base names another")
    written = f"{given['out']}: rlhf run {given['out']}"
    echo("\n".join([_seen(found.features), *_ranking(found.choices), of, *found.notes, written]))


def _data(given: dict[str, Any]) -> dict[str, Any]:
    """The `data` block of a recipe."""
    from rlhf_plugins.cli.data import format_options
    from rlhf_plugins.registry.registry import registry
    from rlhf_plugins.run.session import recognised

    options = format_options(given["options"] or ())
    if given["data"] == "sandbox":
        return {"format": "sandbox", **options}
    name = given["format"] or recognised(given["data"], registry(), "give --format", options.get("split", "train"))
    return {"format": name, "source": given["data"], **options}


def _resources(given: dict[str, Any]) -> Resources:
    from rlhf_plugins.contract.selection import Resources

    words = {name: given[name] for name in RESOURCES}
    if words["priority"] not in (None, *PRIORITIES):
        raise DataError(f"--priority: unknown {words['priority']!r} {nearest(words['priority'], PRIORITIES)}")
    if words["online"] not in (None, "yes", "no"):
        raise DataError(f"--online: yes or no, got {words['online']!r}")
    online = None if words["online"] is None else words["online"] == "yes"
    return Resources(**{**words, "online": online, "vram": _gigabytes(words["vram"])})


def _gigabytes(text: str | None) -> float | None:
    if text is None:
        return None
    if not (read := re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:GB|GiB)?", text, re.IGNORECASE)) or not float(read[1]):
        raise DataError(f"--vram: gigabytes such as 12GB, got {text!r}")
    return float(read[1])


def _seen(features: Features) -> str:
    known_ones = {name: value for name, value in asdict(features).items() if value is not None}
    numbers = known_ones.items()
    shown = ", ".join(f"{name} {value if isinstance(value, int) else f'{value:.3g}'}" for name, value in numbers)
    unseen = f"\nnot seen: {', '.join(features.unseen)}" if features.unseen else ""
    return f"seen: {shown}{unseen}"


def _ranking(choices: Sequence[Choice]) -> list[str]:
    from rlhf_plugins.forecast.costs import in_words

    lines = []
    for place, choice in enumerate(choices, 1):
        expected = ""
        if choice.score is not None:
            interval = f" [{choice.low:.2f}, {choice.high:.2f}]" if choice.low is not None else ""
            expected = f"  expected {choice.score:.2f}{interval}"
        lines += [f"{place}. {choice.algorithm}{expected}", f"     cost: {in_words(choice.cost)}"]
        lines += [f"     {why}" for why in choice.reasons]
    return lines


# The options are data, so that typer reads one argument each: a function may have at most seven written out.
select.__annotations__ = {name: annotation for name, (annotation, _) in OPTIONS.items()}
select.__signature__ = Signature(  # type: ignore[attr-defined]
    [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in OPTIONS.items()
    ]
)


@hookimpl
def register_commands() -> dict[str, Any]:
    """The command of this file."""
    return {"select": select}
