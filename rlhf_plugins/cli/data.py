"""`rlhf data`: checks, counts and converts a file of preferences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_plugins.cli.echo import echo, echo_table
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.errors import DataError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rlhf_plugins.contract.rows import Data, Group, Text
    from rlhf_plugins.contract.run_kinds import DataFormat
    from rlhf_plugins.data.batches.tokens import RowEncoder
    from rlhf_plugins.data.measures.audit import Audit, Share, Tokens

FORMAT = dict.fromkeys(("format", "use"), "is no option of a format: write --format NAME")

data = typer.Typer(help="Check, count and convert a file of rows.", no_args_is_help=True)

FileArgument = Annotated[
    str,
    typer.Argument(metavar="FILE", help="A JSON lines, JSON, CSV or Parquet file, or a data set's name on the hub."),
]
Options = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Options of the format, such as columns.topic=subject or gap=1."),
]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="A data_format component; guessed from the columns if not given.")
]


@data.command()
def check(
    file: FileArgument,
    options: Options = None,
    format: FormatOption = None,
    tokenizer: Annotated[str | None, typer.Option(help="A model whose chat template is tried on the rows.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens that a prompt with a response may have; needs --tokenizer.")
    ] = None,
) -> None:
    """Load a file as training would, and count rows that are left out or suspicious.

    Exit code 0 where the file can be trained on, 2 where it cannot.
    """
    if max_length is not None and tokenizer is None:
        raise DataError("--max-length needs --tokenizer, whose tokens it counts")
    from rlhf_plugins.data.batches.rendered import PARTLY, is_usable, looks, obstacles, unrendered
    from rlhf_plugins.data.dropped import Dropped, reasons
    from rlhf_plugins.data.measures.audit import audit

    made = data_format(file, options, format)
    loaded, encoder = _loaded(made), _encoder(tokenizer) if tokenizer else None
    found = audit(loaded, _tokens(encoder) if encoder else None, max_length)
    ordered = made.ordered
    echo("\n".join([*_report(found), *([] if ordered else [f"first response wins: {found.first_wins}"])]))
    groups = loaded.groups
    for shape, count in getattr(loaded.dropped, "shapes", {}).items():
        echo(f"shape: {shape} ({count} rows)")
    unusable = obstacles(groups, encoder) if encoder else Dropped()
    for reason, count in unusable.items():
        becomes = "kept" if reason in PARTLY else "left out"
        echo(f"for {tokenizer}, {becomes}: {count} x {reason}: {', '.join(unusable.places[reason])}")
    echo("\n".join(["the first rows:", *(f"  {line}" for line in looks(groups, encoder))]))
    alone = unrendered(groups, lambda: encoder.tokenizer, str(tokenizer), "write `as_messages=true`") if encoder else ""
    for warning in filter(None, [*_warnings(found, ordered), alone]):
        echo(f"warning: {warning}")
    if encoder and not any(is_usable(group, encoder) for group in loaded.train):
        raise DataError(f"{file}: with {tokenizer} no row is left to learn from ({reasons(unusable)})")


@data.command()
def stats(file: FileArgument, options: Options = None, format: FormatOption = None) -> None:
    """Print how sizes, lengths, margins, weights and ratings are distributed, and how many groups a topic has."""
    from rich.table import Table

    from rlhf_plugins.data.measures.distributions import distributions, topics
    from rlhf_plugins.report.table import verbatim

    groups = _groups(file, options, format)
    table = Table("quantity", *("n", "mean", "sd", "min", "25%", "50%", "75%", "max"))
    for d in distributions(groups):
        numbers = (f"{value:.4g}" for value in (d.mean, d.deviation, *d.quartiles))
        table.add_row(verbatim(d.name), str(d.count), *numbers)
    echo_table(table)
    if named := topics(groups):
        table = Table("topic", "groups")
        for topic, count in named:
            table.add_row(verbatim(topic), str(count))
        echo_table(table)


@data.command()
def convert(
    file: FileArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file ending in .jsonl, .jsonl.gz, .csv or .parquet.")],
    options: Options = None,
    to: Annotated[
        str, typer.Option(help="pairs (TRL's columns), comparisons, ratings, rankings, supervised, labels or prompts.")
    ] = "pairs",
    format: FormatOption = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
) -> None:
    """Write the useful rows of a file in another form, and count what it leaves out and what that form does not hold.

    Supervised rows are the best response to each prompt, labels those that are better or worse than others.
    """
    from rlhf_plugins.data.dropped import reasons
    from rlhf_plugins.data.formats.output_forms import FORMS, lost
    from rlhf_plugins.data.write import write_rows

    if to not in FORMS:
        raise DataError(f"--to: unknown form {to!r} {nearest(to, FORMS)}")
    loaded = _loaded(data_format(file, options, format))
    groups = sorted(loaded.groups, key=_place)
    rows = FORMS[to].write(groups)
    if not rows:
        raise DataError(f"{file}: holds nothing that could be written as {to}")
    write_rows(out, rows, overwrite)
    gone = ", ".join(f"{count} x {kind}" for kind, count in lost(groups, FORMS[to], rows).items())
    echo(f"{out}: {len(rows)} rows for the format {FORMS[to].format}" + (f"; lost: {gone}" if gone else ""))
    if loaded.dropped:
        echo(f"left out of {file}: {reasons(loaded.dropped)}")


def _place(group: Group) -> tuple[str, int]:
    """Where a group was written."""
    return (group.origin.source, group.origin.row or 0) if group.origin else ("", 0)


def _groups(file: str, words: Sequence[str] | None, name: str | None) -> list[Group]:
    return list(_loaded(data_format(file, words, name)).groups)


def _loaded(made: DataFormat) -> Data:
    """The data that a recipe with the default seed loads; a file needs no model."""
    from rlhf_plugins.contract.run import Base

    return made.load(Base(path=""), seed=0)


def data_format(file: str, words: Sequence[str] | None, name: str | None) -> DataFormat:
    """The format that reads the file; prints a guessed one. Raises RlhfError."""
    from rlhf_plugins.recipe.assemble import component
    from rlhf_plugins.registry.registry import registry
    from rlhf_plugins.run.session import recognised

    options = format_options(words or ())
    if name is None:
        name = recognised(file, registry(), "give --format", options.get("split", "train"))
        echo(f"format: {name} (guessed from the columns)", err=True)
    made: DataFormat = component("data_format", {"use": name, "source": file, **options})
    return made


def format_options(words: Sequence[str]) -> dict[str, Any]:
    """Options of a format. Raises DataError for what an argument of the command says."""
    options = options_of(words)
    for word, cure in {"source": "is FILE itself: name the file in its place", **FORMAT}.items():
        if word in options:
            raise DataError(f"{word}={options[word]}: {cure}")
    return options


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """`a.b=c` words as nested options; the values are YAML."""
    from rlhf_plugins.recipe.overrides import parsed

    options: dict[str, Any] = {}
    for word in words:
        try:
            (*above, last), value = parsed(word, "an option")
        except ValueError as error:
            raise DataError(f"{word!r}: {error}") from error
        here = options
        for name in above:
            here = here.setdefault(name, {})
            if not isinstance(here, dict):
                raise DataError(f"{word}: {name} has a value already and no options")
        if last in here:
            raise DataError(f"{word}: {'.'.join((*above, last))} is given twice")
        here[last] = value
    return options


def _encoder(path: str) -> RowEncoder:
    from rlhf_plugins.contract.run import Base
    from rlhf_plugins.engine.weights.loading import load_row_encoder

    return load_row_encoder(Base(path))


def _tokens(encoder: RowEncoder) -> Tokens:
    """The length of a prompt with a response; 0 where the chat template refuses it, which is counted by itself."""

    def length(prompt: Text, response: Text) -> int:
        try:
            return sum(map(len, encoder.encode(prompt, response)))
        except DataError:
            return 0

    return length


def _report(found: Audit) -> list[str]:
    rated = [f"rated responses: {found.rated}"] if found.rated else []
    left_out = [f"  {count} {reason}: {_first(found, reason, count)}" for reason, count in found.dropped.items()]
    long = [f"over-long responses: {found.too_long.count} of {found.too_long.of}"] if found.too_long else []
    return [
        *([f"rows: {found.rows}"] if found.rows is not None else []),
        f"prompts: {found.prompts}",
        f"groups: {sum(found.groups.values())} ({', '.join(f'{n} {split}' for split, n in found.groups.items())})",
        f"responses: {found.responses}",
        f"comparisons: {found.comparisons}, of which {found.ties} ties",
        *rated,
        f"left out: {sum(found.dropped.values())}",
        *left_out,
        f"contradictions: {found.contradictions} pairs ordered both ways{_gone(found)}",
        f"circles: {found.circles} prompts, {found.circling.count} of {found.circling.of} comparisons",
        f"in train and test: {len(found.shared_prompts)} prompts, {len(found.shared_responses)} responses",
        f"longer response wins: {found.longer_wins}",
        *long,
    ]


def _gone(found: Audit) -> str:
    """The contradictions that are left out already; empty where none is."""
    from rlhf_plugins.data.splits import CONTRADICTED

    count = found.dropped.get(CONTRADICTED, 0)
    return f" in what is left, and {count} rows left out since another contradicts them" if count else ""


def _first(found: Audit, reason: str, count: int) -> str:
    places = found.places.get(reason, ())
    return ", ".join(places) + (", ..." if count > len(places) else "")


def _warnings(found: Audit, ordered: bool) -> list[str]:
    first = found.first_wins
    one_class = not ordered and first.of > 1 and first.count in (0, first.of)
    return [
        *(["the same place wins every pair: is the label a constant?"] if one_class else []),
        *_margins(found.negative_margins),
        *(["no group is held out, so nothing can be measured"] if not found.groups["test"] else []),
        *_overlaps(found),
    ]


def _margins(negative: Share) -> list[str]:
    """A warning where margins contradict their labels."""
    from rlhf_plugins.data.columns import contradicting

    return [contradicting(negative.count, negative.of)] if negative.count else []


def _overlaps(found: Audit) -> Iterator[str]:
    """What training and test groups share, and what to do; a stock refusal is another thing than a question."""
    if found.shared_prompts:
        which = f"{len(found.shared_prompts)} prompts are in train and test: {_most(found.shared_prompts)}"
        yield f"{which}; what is measured on them is no test, so leave them out of one of the two"
    if found.shared_responses:
        which = f"{found.known.count} of {found.known.of} test groups have a response that training has too"
        advice = "a stock answer of few groups does no harm; where many have one, accuracy is too high: leave these out"
        yield f"{which}: {_most(found.shared_responses)}; {advice}"


def _most(shared: Mapping[str, int]) -> str:
    """How many texts are shared, and the one that most groups have."""
    text, count = next(iter(shared.items()))
    most = f"{text[:60]!r}, in {count} groups of train and test together"
    return most if len(shared) == 1 else f"{len(shared)} texts, most often {most}"


@hookimpl
def register_commands() -> dict[str, typer.Typer]:
    """The commands of this file."""
    return {"data": data}
