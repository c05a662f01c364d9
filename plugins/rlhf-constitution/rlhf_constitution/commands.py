"""`rlhf constitution check|score|explain|suggest`; a command imports what it needs itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_plugins import hookimpl

if TYPE_CHECKING:
    from rlhf_constitution.constitution import Constitution, Scored
    from rlhf_constitution.scoring import Scorer

app = typer.Typer(help="Check a constitution, and score responses with it.", no_args_is_help=True)
File = Annotated[str, typer.Argument(metavar="CONSTITUTION", help="A YAML file, or the name of a bundled one.")]
Prompt = Annotated[str, typer.Option("--prompt", help="The prompt.")]
Responses = Annotated[list[str], typer.Option("--response", help="A response; give several to compare them.")]


@app.command()
def check(constitution: File) -> None:
    """Name every fault of a constitution, and try the examples of the principles that a program decides."""
    from rlhf_constitution.constitution import load
    from rlhf_constitution.examples import count, wrong

    found = load(constitution)
    faults = wrong(found)
    for fault in faults:
        say(f"{constitution}: {fault}", err=True)
    if faults:
        raise typer.Exit(2)
    say(f"{constitution}: ok, {len(found.principles)} principles, {count(found)} examples hold; {found.known}")


@app.command()
def score(constitution: File, prompt: Prompt, response: Responses) -> None:
    """Print the satisfaction P, the weighted sum and each principle's value of responses."""
    found, scored = _scored(constitution, prompt, response)
    for text, one in zip(response, scored, strict=True):
        values = ", ".join(f"{name} {_value(one, name)}" for name in one.outcomes)
        say(f"P {_number(one.satisfaction)}  sum {_number(one.score)}  {values}  {_gates(one)}  {text!r}")


@app.command()
def explain(constitution: File, prompt: Prompt, response: Responses) -> None:
    """Say in words what is wrong with responses and, of two or more, which is best."""
    from rlhf_constitution.critique import critiques, decision

    found, scored = _scored(constitution, prompt, response)
    for text, one in zip(response, scored, strict=True):
        say(f"{text!r}: P {_number(one.satisfaction)}, {_gates(one)}")
        for critique in critiques(found, one):
            say(f"  severity {critique.severity}, {critique.angle}: {critique}")
    best = 0
    for place in range(1, len(scored)):
        say(decision(found, scored[best], scored[place], (f"response {best + 1}", f"response {place + 1}")))
        if None not in (scored[best].satisfaction, scored[place].satisfaction):
            best = max(best, place, key=lambda at: scored[at].key)


@app.command()
def suggest(
    constitution: File,
    rows: Annotated[str, typer.Argument(metavar="ROWS", help="Pairs that people judged: prompt, chosen, rejected.")],
    library: Annotated[str, typer.Option(help="A constitution whose principles are tried.")] = "starter",
) -> None:
    """Say where people and a constitution disagree, which principle would settle it, and what such cases share."""
    from rlhf_constitution.constitution import load
    from rlhf_constitution.suggest import cases_of, clusters, disagreements, suggestions
    from rlhf_plugins import Base, component

    found, others = load(constitution), load(library)
    data = component("data_format", "preference", source=rows).load(Base("sandbox"), 0)
    cases = cases_of((*data.train, *data.test))
    prompts = [case.prompt for case in cases]
    with _scorer(found) as score:
        scored = [score(prompts, texts) for texts in ([c.chosen for c in cases], [c.rejected for c in cases])]
    against, unknown = disagreements(cases, *scored)
    say(f"{len(cases)} pairs: the constitution disagrees on {len(against)}, and cannot score {unknown}")
    known = {one.name for one in found.principles}
    asked = [case.prompt for case in against]
    with _scorer(others) as score:
        sides = [score(asked, texts) for texts in ([c.chosen for c in against], [c.rejected for c in against])]
    table = {
        one.name: [(a.outcomes[one.name], b.outcomes[one.name]) for a, b in zip(*sides, strict=True)]
        for one in others.principles
        if one.name not in known
    }
    for line in (*suggestions(table), *clusters(against)):
        say(f"  {line}")


@contextmanager
def _scorer(found: Constitution) -> Iterator[Scorer]:
    """Scores responses; principles that need a run are given one on the sandbox."""
    from rlhf_constitution.scoring import Scorer
    from rlhf_plugins import session

    with tempfile.TemporaryDirectory() as folder:
        needed = any(one.builds for one in found.principles)
        data = {"format": "sandbox", "writer": "sloppy", "prompts": 1, "test_prompts": 1}
        yield Scorer(found, session("sandbox", data, folder) if needed else None)


def _scored(constitution: str, prompt: str, responses: list[str]) -> tuple[Constitution, list[Scored]]:
    from rlhf_constitution.constitution import load

    found = load(constitution)
    with _scorer(found) as score:
        return found, score([prompt] * len(responses), responses)


def _value(scored: Scored, name: str) -> str:
    outcome = scored.outcomes[name]
    return f"{outcome.value:.2f}" if hasattr(outcome, "value") else type(outcome).__name__


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _gates(scored: Scored) -> str:
    return f"loses {', '.join(sorted(scored.gates))}" if scored.gates else "no gate lost"


def say(text: str, err: bool = False) -> None:
    """Prints a line, with what could steer a terminal written out."""
    typer.echo("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), err=err)


@hookimpl
def register_commands() -> dict[str, typer.Typer]:
    """The commands of this file."""
    return {"constitution": app}
