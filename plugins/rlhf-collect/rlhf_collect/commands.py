"""`rlhf collect`: the commands. What a command needs is imported inside it, so that `rlhf --help` answers at once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_plugins import DataError, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rlhf_collect.kinds.base import Kind
    from rlhf_collect.release import Release
    from rlhf_collect.store.rows import Asked
    from rlhf_collect.study import Study

collect = typer.Typer(
    help="Preference data from people: a page to judge on, agreement, releases.", no_args_is_help=True
)
Folder = Annotated[Path, typer.Argument(metavar="STUDY", help="The folder of the study.")]
Rows = Annotated[list[Path], typer.Option("--prompts", help="A JSON lines file with prompts and responses.")]
NewRows = Annotated[list[Path] | None, typer.Option("--prompts", help="A JSON lines file with prompts and responses.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]


@collect.command()
def new(
    study: Folder,
    prompts: NewRows = None,
    policy: Annotated[list[str] | None, typer.Option(help="RUN#STAGE or a folder: adds an answer to each.")] = None,
    kind: Annotated[str, typer.Option(help="What people are asked: pair, ranking or rating.")] = "pair",
    dimension: Annotated[list[str] | None, typer.Option(help="Of ratings; may be given several times.")] = None,
    votes: Annotated[int, typer.Option(help="People who judge an item.")] = 3,
    guidelines: Annotated[Path | None, typer.Option(help="A Markdown file.")] = None,
) -> None:
    """Make a study of prompts with their answers; without --prompts one that a training or `add` fills."""
    from rlhf_collect.kinds.every import kind_of
    from rlhf_collect.settings import Settings
    from rlhf_collect.study import GUIDELINES, new_study, refuse_held

    if policy and not prompts:
        raise DataError("--policy answers the prompts of --prompts FILE: give one")
    text = _text_of(guidelines) if guidelines else GUIDELINES
    settings = Settings(kind, tuple(dimension or ()), votes, max(votes, Settings.most_votes))
    asked = kind_of(settings.kind, settings.dimensions)
    refuse_held(study)
    unread: Counter[str] = Counter()
    rows = _read(prompts, asked, unread, policy or []) if prompts else []
    made = new_study(study, settings, text)
    if rows:
        _add(made, rows, unread)
    typer.echo(f"next: rlhf collect serve {study}")


@collect.command()
def answer(
    prompts: Annotated[Path, typer.Argument(help="A JSON lines file with prompts.")],
    out: Annotated[Path, typer.Argument(help="The same rows with responses.")],
    policy: Annotated[list[str], typer.Option(help="RUN#STAGE or a folder; may be given several times.")],
    temperature: Annotated[list[float] | None, typer.Option(help="May be given several times.")] = None,
    each: Annotated[int, typer.Option(min=1, help="Responses of a policy at a temperature.")] = 1,
    negative: Annotated[list[str] | None, typer.Option(help="Worse ones on purpose: hot, truncated.")] = None,
    longest: Annotated[int, typer.Option(min=1, help="Tokens of a response.")] = 128,
) -> None:
    """Have policies answer prompts, for `new` and `add`; every response keeps who gave it and how."""
    from rlhf_collect.generate import Plan, answered
    from rlhf_collect.store.rows import read_rows, write_rows

    left_out: Counter[str] = Counter()
    plan = Plan(tuple(policy), tuple(temperature or (1.0,)), each, longest, tuple(negative or ()))
    count = write_rows(out, answered(read_rows(prompts, left_out), plan, left_out))
    typer.echo(f"{out}: {count} rows{_counted(+left_out)}")


@collect.command()
def add(study: Folder, prompts: Rows) -> None:
    """Add rows to a study; what it has already is left as it is."""
    from rlhf_collect.study import open_study

    opened, unread = open_study(study), Counter[str]()
    _add(opened, _read(prompts, opened.kind, unread), unread)


@collect.command()
def guide(study: Folder, guidelines: Annotated[Path, typer.Argument(help="A Markdown file.")]) -> None:
    """Give a study new guidelines; each judgement keeps the number of those that it was made under."""
    from rlhf_collect.study import open_study

    version = open_study(study).guide(_text_of(guidelines))
    typer.echo(f"{study}: guidelines {version}")


@collect.command()
def invite(
    study: Folder,
    name: Annotated[str, typer.Argument(help="Of the person.")],
    role: Annotated[str, typer.Option(help="annotator, reviewer or lead.")] = "annotator",
    address: Annotated[str, typer.Option(help="Where the study is served.")] = "http://127.0.0.1:8000",
) -> None:
    """Print a link that lets a person in once."""
    from rlhf_collect.study import open_study

    typer.echo(_link(open_study(study), name, role, address))


@collect.command()
def prioritise(
    study: Folder,
    reward: Annotated[str, typer.Option(help="RUN#STAGE or a folder: a reward model, or an ensemble.")],
    by: Annotated[str, typer.Option(help="margin, or variance of an ensemble.")] = "margin",
    random: Annotated[float, typer.Option(help="Share of items that are drawn at random, to compare with.")] = 0.2,
) -> None:
    """Ask first about the items on which a reward model is least sure."""
    from rlhf_collect.acquire import prioritise as put_in_order
    from rlhf_collect.study import open_study

    chosen, drawn = put_in_order(open_study(study), reward, by, random)
    typer.echo(f"{study}: {chosen} items by {by}, {drawn} at random between them")


@collect.command()
def suggest(
    study: Folder,
    reward: Annotated[str, typer.Option(help="RUN#STAGE or a folder: a reward model.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Show it to all before they answer, to confirm or correct it: no votes.")
    ] = False,
) -> None:
    """Keep what a reward model prefers; half of the people see it, each after the own answer."""
    from rlhf_collect.study import open_study
    from rlhf_collect.suggest import suggest as suggested

    typer.echo(f"{study}: {suggested(open_study(study), reward, verify)} items have a suggestion")


@collect.command()
def resume(study: Folder, name: Annotated[str, typer.Argument(help="Of the person.")]) -> None:
    """Let a person go on who was paused."""
    from rlhf_collect.store.people import named, set_state
    from rlhf_collect.study import open_study

    opened = open_study(study)
    with opened.database.writing() as connection:
        set_state(connection, opened.now(), named(connection, name), "active")
    typer.echo(f"{name}: active")


@collect.command()
def show(study: Folder, name: Annotated[str, typer.Argument(help="Of the person.")]) -> None:
    """Print all that is kept of a person as JSON."""
    from rlhf_collect.store.personal import about
    from rlhf_collect.study import open_study

    typer.echo(json.dumps(about(open_study(study), name), ensure_ascii=False, indent=1))


@collect.command()
def forget(
    study: Folder,
    name: Annotated[str, typer.Argument(help="Of the person.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete; otherwise only count what would be deleted.")] = False,
) -> None:
    """Delete a person and all that is kept of one; places that the person filled are open again."""
    from rlhf_collect.store import personal
    from rlhf_collect.study import open_study

    opened = open_study(study)
    found = personal.forget(opened, name) if yes else personal.kept(opened, name)
    typer.echo(f"{name}: {', '.join(f'{count} {what}' for what, count in found.counts.items())}")
    for number in found.releases:
        typer.echo(f"release {number} counts these judgements: files and models that were made of it are not changed")
    for copy in found.copies:
        typer.echo(f"{copy}: a copy of before a migration may hold the person still; delete it")
    typer.echo("deleted; the places are open again" if yes else "could be deleted: add --yes")


@collect.command()
def serve(study: Folder, port: Port = 8000) -> None:
    """Serve the page on this machine, and print a link for you."""
    from rlhf_collect.study import open_study

    _serve(open_study(study), port)


@collect.command()
def report(study: Folder) -> None:
    """Print what was done, by whom, and what is left."""
    from rlhf_collect.reporting import lines
    from rlhf_collect.study import open_study

    for line in lines(open_study(study)):
        typer.echo(line)


@collect.command()
def export(
    study: Folder,
    release: Annotated[int | None, typer.Option(min=1, help="Its number; without one a new release is made.")] = None,
    out: Annotated[Path | None, typer.Option(help="Without one, STUDY/releases/NUMBER.")] = None,
    min_agreement: Annotated[float, typer.Option(help="Of a new release: leave out items below it.")] = 0.0,
    aggregate: Annotated[str, typer.Option(help="Of a new release: majority or dawid_skene.")] = "majority",
    verified: Annotated[
        bool, typer.Option("--verified", help="Of a new release: count answers with a label shown as votes.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV in place of JSON lines.")] = False,
) -> None:
    """Write a release as files with TRL's columns; make it first if it is the next."""
    from rlhf_collect import release as releases
    from rlhf_collect.export import write
    from rlhf_collect.study import open_study

    opened = open_study(study)
    following = releases.newest(opened) + 1
    parameters = releases.Parameters(aggregate, min_agreement, verified=verified)
    if release in (None, following):
        made = releases.make(opened, parameters)
    elif parameters != releases.Parameters():
        raise DataError(f"release {release} is not the next, {following}: its aggregation and votes are not chosen now")
    else:
        made = releases.load(opened, int(release or 0))
    folder = out or study / "releases" / str(made.number)
    written = ", ".join(f"{count} {name}" for name, count in write(made, folder, as_csv).items())
    typer.echo(f"release {made.number}: {written}{_counted(made.left_out)}; {folder}")
    if made.number > 1:
        typer.echo(_difference(opened, made, folder / "difference.json"))


@collect.command()
def migrate(study: Folder) -> None:
    """Bring a study of an older version to the tables of this one; a study in a file is copied before."""
    from rlhf_collect.migrate import migrate as migrated

    done = migrated(study)
    if done.before == done.after:
        typer.echo(f"{study}: is of revision {done.after} already")
    else:
        kept = f"; as it was: {done.copy}" if done.copy else ""
        typer.echo(f"{study}: revision {done.before} to {done.after}{kept}")


@collect.command()
def demo(
    study: Annotated[
        Path | None, typer.Argument(metavar="STUDY", help="A new folder; without one, a temporary.")
    ] = None,
    port: Port = 8000,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of the sandbox.")] = 40,
    page: Annotated[bool, typer.Option(help="Serve the page.")] = True,
) -> None:
    """Try it: prompts and answers of the sandbox, three simulated annotators, and you."""
    from tempfile import mkdtemp

    from rlhf_collect.demo import make_demo

    folder = study or Path(mkdtemp(prefix="rlhf-collect-"))
    made, judged = make_demo(folder, prompts)
    typer.echo(f"{folder}: {judged} judgements by three simulated annotators")
    if page:
        _serve(made, port)


def _text_of(file: Path) -> str:
    """Raises DataError where it is no text."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _read(files: list[Path], kind: Kind, unread: Counter[str], policies: Sequence[str] = ()) -> list[Asked]:
    """The rows of the files, with an answer of each policy. Raises DataError where people can judge none of them."""
    from rlhf_collect.store.content import usable
    from rlhf_collect.store.rows import read_rows

    found: Iterable[Asked] = (row for file in files for row in read_rows(file, unread))
    if policies:
        from rlhf_collect.generate import Plan, answered

        found = answered(found, Plan(tuple(policies)), unread)
    rows, left_out = list(found), Counter[str]()
    if not list(usable(rows, kind, left_out)):
        named = ", ".join(map(str, files))
        raise DataError(f"{named}: no row that people can judge{_counted(+(unread + left_out))}")
    return rows


def _add(study: Study, rows: list[Asked], unread: Counter[str]) -> None:
    added, left_out = study.add(rows)
    purposes = ", ".join(f"{count} {name}" for name, count in sorted(added.items())) or "nothing"
    typer.echo(f"{study.folder}: added items: {purposes}{_counted(unread + left_out)}")


def _counted(left_out: Counter[str] | Any) -> str:
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    return f"; left out: {listed}" if listed else ""


def _difference(study: Study, made: Release, file: Path) -> str:
    """Writes how a release differs from the one before it; where that is not made again, says so in place of it."""
    from rlhf_collect import release as releases

    try:
        changes = releases.difference(releases.load(study, made.number - 1), made)
    except releases.Forgotten as error:
        file.unlink(missing_ok=True)
        return f"no {file.name}: {error}"
    file.write_text(json.dumps(changes, indent=1), encoding="utf-8")
    listed = ", ".join(f"{len(items)} {name}" for name, items in changes.items())
    return f"items since release {made.number - 1}: {listed}; {file}"


def _link(study: Study, name: str, role: str, address: str) -> str:
    from rlhf_collect.store.people import invite as invited

    with study.database.writing() as connection:
        return f"{address.rstrip('/')}/enter?ticket={invited(connection, study.now(), name, role)}"


def _serve(study: Study, port: int) -> None:
    import socket

    import uvicorn

    from rlhf_collect.page.app import site

    listener = socket.create_server(("127.0.0.1", port))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    typer.echo(f"open once: {_link(study, 'lead', 'lead', address)}")
    typer.echo("end with Ctrl-C")
    config = uvicorn.Config(site(study), log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])


@hookimpl
def register_commands() -> dict[str, typer.Typer]:
    """The commands of this file."""
    return {"collect": collect}
