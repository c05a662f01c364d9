"""`rlhf constitution check|score|explain`: prints what a constitution says; a command imports what it needs itself."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_plugins import hookimpl

if TYPE_CHECKING:
    from rlhf_constitution.constitution import Constitution, Scored

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


def _scored(constitution: str, prompt: str, responses: list[str]) -> tuple[Constitution, list[Scored]]:
    """The responses scored; principles that need a run are given one on the sandbox."""
    from rlhf_constitution.constitution import load
    from rlhf_constitution.scoring import Scorer
    from rlhf_plugins import session

    found = load(constitution)
    with tempfile.TemporaryDirectory() as folder:
        needed = any(one.builds for one in found.principles)
        data = {"format": "sandbox", "writer": "sloppy", "prompts": 1, "test_prompts": 1}
        scorer = Scorer(found, session("sandbox", data, folder) if needed else None)
        return found, scorer([prompt] * len(responses), responses)


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
