"""The commands. What one needs is imported inside it, so that `rlhf --help` answers at once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rlhf_plugins import RunError, hookimpl, nearest_path

if TYPE_CHECKING:
    from rlhf_watch.page.board import Board


def compare(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="BASELINE [OTHER]...", help="Runs, RUN#POLICY, or JSON lines of scored responses."),
    ] = [],  # noqa: B006, which typer copies
    prompts: Annotated[
        int | None, typer.Option(min=2, help="Without sources: what a comparison on this many prompts can show.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Without sources: prompts that a win rate needs.")
    ] = None,
    power: Annotated[float, typer.Option(min=0.01, max=0.999, help="Of --prompts and --rate.")] = 0.8,
    by: Annotated[str, typer.Option(help="A column of the files: win rates by group too.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare policies with a baseline on the same prompts: win rate, tests, sample size.

    Of a run alone the policies are compared with its reference. `--rate 0.55` says before anything is judged how many
    prompts are needed, `--prompts 200` what they can show.
    """
    from rlhf_watch.ab import wording

    if sources:
        from rlhf_watch.ab.comparison import compare as compared

        found = compared(sources, by=by)
        if as_json:
            import json

            typer.echo(json.dumps([wording.record(one) for one in found], indent=2))
        else:
            say("\n".join(wording.lines(found)))
        return
    if by or (rate is None and prompts is None):
        raise typer.BadParameter("name what is compared, or plan with --rate or --prompts")
    for line in wording.plan(rate, prompts, power):
        say(line)


class Group(TyperGroup):
    """`rlhf watch FOLDER` is `rlhf watch page FOLDER`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the command in where none is named."""
        named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["page", *args])


watch = typer.Typer(cls=Group, help="Watch runs: `rlhf watch FOLDER`; calibrate the alarms of their monitors.")


@watch.command()
def page(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A run, or a folder that holds runs.")] = Path(
        "runs"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    terminal: Annotated[bool, typer.Option("--terminal", help="A table in this terminal, no page.")] = False,
    once: Annotated[bool, typer.Option("--once", help="With --terminal: print the table and end.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the page as one file and end.")] = None,
    notify: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Send new alarms there; or the environment variable that holds the address."),
    ] = None,
) -> None:
    """Show the runs of a folder while they are written: curves over each other, alarms, samples, failures.

    Alarms go to `https://HOST/PATH` as JSON, or to `smtps://USER:PASSWORD@HOST?to=ME@HOST` as a mail.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder{nearest_path(folder, Path.is_dir)}")
    if once and not terminal:
        raise RunError("--once prints the table of --terminal: write both, or --out FILE for the page")
    from rlhf_watch.page.board import Board

    if notify is not None:
        if once or out is not None:
            raise RunError("--notify sends alarms while runs are watched: leave --once and --out away")
        send_news(folder, notify)
    board = Board(folder)
    if terminal:
        from rich.console import Console

        from rlhf_watch.page.terminal import follow

        follow(board, Console(), once)
    elif out is not None:
        from rlhf_watch.page.app import static_page

        out.write_text(static_page(board), encoding="utf-8")
        say(str(out))
    else:
        serve(board, port)


def send_news(folder: Path, notify: str) -> None:
    """Sends alarms beside the page. Raises RunError where the address is none."""
    import threading

    from rlhf_watch.notices.address import Address
    from rlhf_watch.page.news import News

    address = Address.read(notify)
    threading.Thread(target=News(folder).send, args=(address,), daemon=True).start()


def serve(board: Board, port: int) -> None:
    """Serves the page on this machine alone, and prints its address."""
    import secrets
    import socket

    import uvicorn

    from rlhf_watch.page.app import site

    token = secrets.token_urlsafe(16)
    listener = socket.create_server(("127.0.0.1", port))
    say(f"http://127.0.0.1:{listener.getsockname()[1]}/?token={token}\nend with Ctrl-C")
    config = uvicorn.Config(site(board, token), log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])


@watch.command()
def calibrate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Clean runs, or folders that hold them.")],
    out: Annotated[Path, typer.Option(help="The file to write; monitors read it as `thresholds`.")] = Path(
        "thresholds.json"
    ),
    rate: Annotated[float, typer.Option(min=1e-4, max=0.5, help="Of clean runs that may alarm.")] = 0.01,
) -> None:
    """Fit the thresholds of all monitors to clean runs, so that a fresh clean run alarms at a known rate.

    The runs were trained with the same monitors and without thresholds; all of them together keep to the rate.
    """
    from rlhf_watch.alarms.calibration import calibrate as calibrated

    found = calibrated(runs, rate)
    found.write(out)
    for name, entry in found.monitors.items():
        say(f"{name}: {entry['threshold']:.4g}")
    say(f"{out}: {found.runs} clean runs of at least {found.rollouts} rollouts; about {rate:.1%} of such runs alarm")


Model = Annotated[str, typer.Argument(metavar="MODEL", help="A reward model: RUN, RUN#STAGE, or its folder.")]
Scored = Annotated[Path, typer.Argument(metavar="FILE", help="Pairs with `rewards`, as `rlhf score` writes them.")]


@watch.command()
def shift(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="JSON lines with prompts of the training.")],
    deployed: Annotated[Path, typer.Argument(metavar="DEPLOYED", help="JSON lines with other prompts.")],
    model: Annotated[
        str | None, typer.Option(help="A reward model, which then reads the rows' `response` or `chosen`.")
    ] = None,
    rate: Annotated[float, typer.Option(min=1e-4, max=0.5, help="Of training responses beyond the threshold.")] = 0.01,
    by: Annotated[str, typer.Option(help="With a model: its accuracy by this column of DEPLOYED's judged pairs.")] = (
        "topic"
    ),
) -> None:
    """Tell whether prompts are like those of training, and whether a reward model can be trusted on them."""
    from rlhf_watch.shift.report import lines

    say("\n".join(lines(train, deployed, model, rate, by)))


@watch.command()
def groups(file: Scored, by: Annotated[str, typer.Option(help="The column that names the group of a row.")]) -> None:
    """Print a reward model's accuracy and rewards by group, and whether one is judged worse."""
    from rlhf_watch.groups.reading import group_lines

    say("\n".join(group_lines(file, by)))


class Order(StrEnum):
    """What makes a row one of the worst; `groups.failures.BY` computes it."""

    GAP = "gap"
    DISAGREEMENT = "disagreement"
    LENGTH = "length"


@watch.command()
def failures(
    file: Scored,
    by: Annotated[
        Order, typer.Option(help="Ordered wrongly by the most, members disagree, or the longer one is preferred.")
    ] = Order.GAP,
    count: Annotated[int, typer.Option("--rows", min=1, help="The worst rows.")] = 100,
    clusters: Annotated[int, typer.Option(min=1, help="Groups of alike rows.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Write the rows for `rlhf collect`.")] = None,
) -> None:
    """Print the worst pairs of a reward model in clusters; let people judge them again."""
    from rlhf_watch.groups.reading import failure_lines

    say("\n".join(failure_lines(file, count, clusters, out, by.value)))


def explain(
    model: Model,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines with `prompt` and `response`.")],
    rows: Annotated[int, typer.Option(min=1, help="Of the file, the first ones.")] = 5,
    layers: Annotated[
        bool, typer.Option("--layers", help="The reward at each layer, and its strongest attention.")
    ] = False,
    train: Annotated[
        Path | None, typer.Option(help="Rows of the training: print the responses nearest to each.")
    ] = None,
) -> None:
    """Print which tokens made a reward: integrated gradients with their error, and the reward without each word."""
    from rlhf_watch.explain.wording import lines

    for line in lines(model, file, rows, layers, train):
        say(line)


def probe(
    model: Model,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="JSON lines with responses; the run's held-out rows if not given."),
    ] = None,
    rows: Annotated[int, typer.Option(min=2, help="Groups of responses, the first ones.")] = 256,
    filler: Annotated[list[str] | None, typer.Option(help="A sentence that says nothing; may be given again.")] = None,
    opener: Annotated[list[str] | None, typer.Option(help="A polite sentence; may be given again.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what length, politeness, markdown, order and position do to a reward, beside what they go with.

    A row of FILE has a prompt and a response, a list of responses, or chosen and rejected.
    """
    import json

    from rlhf_watch.probe import interventions, reading, wording

    words = interventions.interventions(filler or interventions.FILLERS, opener or interventions.OPENERS)
    found = reading.probed(model, file, rows, words)
    say(json.dumps(wording.record(found), indent=2) if as_json else "\n".join(wording.lines(found)))


def say(text: str) -> None:
    """Prints text, with what could steer a terminal written out."""
    typer.echo("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text))


@hookimpl
def register_commands() -> dict[str, Any]:
    """The commands of this file."""
    return {"compare": compare, "explain": explain, "probe": probe, "watch": watch}
