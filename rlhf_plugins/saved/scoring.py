"""Scores the rows of a file with a saved reward model."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.rows import Samples, Text
from rlhf_plugins.data.dropped import Dropped, reasons
from rlhf_plugins.data.fields import required, responses, text, texts
from rlhf_plugins.data.formats.shapes import opened, with_system_cells
from rlhf_plugins.data.rows import read_rows
from rlhf_plugins.data.turns import as_response
from rlhf_plugins.errors import DataError, RunError, nearest
from rlhf_plugins.saved.growing_file import GrowingFile, digest, place

if TYPE_CHECKING:
    from rlhf_plugins.contract.records import Prediction
    from rlhf_plugins.contract.run import Base
    from rlhf_plugins.contract.run_kinds import DataFormat
    from rlhf_plugins.saved.run_reference import Made

CHUNK = 64  # rows; an interruption loses no more
WRITTEN = ("reward", "rewards", "variance", "quantiles", "dimensions", "members", "epistemic")
FORMS = ("response", "responses", "chosen")  # each form of a row has one of these columns
TEXTS = {"prompt", "rejected", *FORMS}
Scores = dict[str, Any]  # of one response, as they are written
Ids = Callable[[str, Text, Text], tuple[Sequence[int], Sequence[int]]]  # where, prompt, response -> tokens


@dataclass(frozen=True)
class Item:
    """A row: how its line begins, and its responses."""

    where: str
    line: str  # the row as JSON without the closing brace
    prompt: Text
    responses: Sequence[Text]
    listed: bool  # a list is written, even for one response
    columns: Mapping[str, Any] = field(default_factory=dict)  # that are not in the line

    def read(self) -> dict[str, Any]:
        """Its columns, but for its texts."""
        fields = json.loads(self.line + "}") | dict(self.columns)
        return {name: value for name, value in fields.items() if name not in TEXTS}

    def ending(self, scores: Sequence[Scores]) -> str:
        """The rest of its line. Raises RunError where a score is not a finite number."""
        fields = {name: [one[name] for one in scores] for name in scores[0]} if self.listed else dict(scores[0])
        if self.listed:
            fields = {"rewards": fields.pop("reward"), **fields}
        try:
            return ", " + json.dumps(fields, allow_nan=False)[1:]
        except ValueError as error:
            raise RunError(f"{self.where}: its reward, or another output of the model, is not finite") from error


@dataclass(frozen=True)
class ScoredRows:
    """The result of a call: all rows, and how many of them were scored before."""

    out: Path
    rows: int
    before: int


def score_file(
    model: Path | Made,
    source: str,
    out: Path | None = None,
    read: DataFormat | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
) -> ScoredRows:
    """Writes the rows of a file with their scores as JSON lines, and goes on where an earlier call stopped.

    A row has a `prompt` and a `response`, or a list of `responses`, or `chosen` and `rejected`, whose prompt may be
    what they share; each text or messages. A `system` turn and `tools` join the prompt, as in training. A row gets a
    `reward`, or `rewards` in the order of its responses; and
    `variance`, `quantiles`, `dimensions`, `members` and `epistemic` (the members' variance) where the model has them.
    An ensemble that compares responses, or asks further members only where these differ, compares those of a row alone,
    whatever other rows there are. Several processes score a file together.

    Args:
        model: the folder of a saved reward model or ensemble, or what a run made of others.
        source: a file or a data set on the hub, as `read_rows` takes it.
        out: the file to write; None: the source's name with `.scored.jsonl`, beside it.
        read: reads the source; a line is then a group's prompt, responses and rewards.
        cache: a file of rewards scored before; lines then hold rewards alone.
        overwrite: replace `out`.

    Raises:
        DataError: rows cannot be read, or have no or too many tokens; it names them, and nothing is written then.
        RunError: the model does not open; it compares responses, and a row has one, or there is a cache of rewards;
            `out` belongs to other rows or another model; a score is not finite; one of several processes has another
            model, other rows or other versions.
        KeyboardInterrupt: Ctrl-C; the message gives the number of rows scored.
    """
    from rlhf_plugins.report import versions
    from rlhf_plugins.reward_models.opening import saved_base
    from rlhf_plugins.reward_models.score_cache import identity
    from rlhf_plugins.run import distributed

    processes.join()
    if isinstance(model, Path):
        base, known_as = saved_base(model), identity(model)
    else:
        base, known_as = model.base, model.identity
    items = list(_of_format(source, read, base)) if read else _items(source)
    tokens = _tokens(source, items, _encoder(base))
    out = place(source, out, ".scored.jsonl", "the file to score")
    rows = digest([item.line, item.prompt, list(item.responses)] for item in items)
    note = {"model": known_as, "set of rows": rows, "kind of scores": "rewards alone" if cache else "all"}
    if processes.count() > 1:
        distributed.refuse_differences({**note, "versions": versions()}, "score")
    file = GrowingFile(out, note, [item.line for item in items], CHUNK)
    before = processes.on_main(lambda: file.reopen(overwrite))
    if before < len(items):
        _score(file, before, items, tokens, (model, known_as, cache))
    return ScoredRows(out, len(items), before)


def _score(
    file: GrowingFile,
    before: int,
    items: Sequence[Item],
    tokens: Sequence[Any],
    model: tuple[Path | Made, str, Path | None],
) -> None:
    with _model(*model, items) as (score, reads):

        def ends(first: int) -> list[str]:
            chunk = slice(first, first + CHUNK)
            answers = iter(score(_samples(items[chunk], tokens[chunk], reads)))
            return [item.ending([next(answers) for _ in item.responses]) for item in items[chunk]]

        file.extend(before, ends, "scoring", "rows are scored")


# ---- rows ------------------------------------------------------------------------------------------------
def _items(source: str) -> list[Item]:
    dropped, found = Dropped(gathers=True), list[Item]()
    rows = list(read_rows(source, dropped=dropped))
    for (where, written), (_, fields) in zip(rows, with_system_cells(rows), strict=True):
        with dropped.row(where):
            found.append(_item(where, written, fields))
    dropped.refuse(source)
    return found


def _item(where: str, written: Mapping[str, Any], fields: Mapping[str, Any]) -> Item:
    """A row, as it is written in the file, and as it is read."""
    for name in WRITTEN:
        if name in fields:
            raise DataError(f"{where}: has a column {name!r} already; scores are written under that name")
    found = [name for name in FORMS if name in fields]
    if not found:
        lacks = f"has neither 'response' nor 'responses' nor 'chosen' {nearest('response', fields)}"
        raise DataError(f"{where}: {lacks}; --format reads other forms")
    if len(found) > 1:
        raise DataError(f"{where}: has {' and '.join(map(repr, found))}, and only one can be scored")
    read = {"response": _one, "responses": _several, "chosen": _pair}[found[0]]
    return Item(where, as_json(where, written), *read(where, fields), listed=found[0] != "response")


def _one(where: str, fields: Mapping[str, Any]) -> tuple[Text, Sequence[Text]]:
    return _opened(where, fields, *texts(where, fields, ("prompt", "response")))


def _opened(where: str, fields: Mapping[str, Any], prompt: Text, *given: Text) -> tuple[Text, Sequence[Text]]:
    """The prompt with the system turn and the tools of other columns, and the responses in its form."""
    whole = opened(where, dict(fields), prompt)
    return whole, tuple(as_response(whole, response) for response in given)


def _several(where: str, fields: Mapping[str, Any]) -> tuple[Text, Sequence[Text]]:
    prompt = opened(where, dict(fields), text(where, "prompt", required(where, "prompt", fields)))
    return prompt, responses(where, "responses", fields["responses"], "text", prompt)


def _pair(where: str, fields: Mapping[str, Any]) -> tuple[Text, Sequence[Text]]:
    from rlhf_plugins.data.formats.preference import read_pairs

    if "prompt" in fields:
        return _opened(where, fields, *texts(where, fields, ("prompt", "chosen", "rejected")))
    dropped = Dropped()
    for _, group in read_pairs([(where, dict(fields))], dropped):
        return group.prompt, group.responses
    raise DataError(f"{where}: {', '.join(dropped)}, so the prompt is unknown; give it a `prompt`")


def _of_format(source: str, read: DataFormat, base: Base) -> Iterator[Item]:
    data = read.load(base, 0)
    if data.dropped:
        import logging

        logging.getLogger(__name__).warning("%s: left out: %s", source, reasons(data.dropped))
    for number, group in enumerate(data.groups):
        where = f"{source}: group {number}"
        fields = {"prompt": group.prompt, "responses": list(group.responses)}
        yield Item(where, as_json(where, fields), group.prompt, group.responses, True, group.columns)


def as_json(where: str, fields: Mapping[str, Any]) -> str:
    """A row as JSON without the closing brace. Raises DataError where JSON cannot hold it."""
    try:
        line = json.dumps(_nulls(fields), ensure_ascii=False, allow_nan=False, default=_word)
        line.encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: cannot be written as JSON: {error}") from error
    return line[:-1]


def _nulls(value: Any) -> Any:
    """The value with null for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _nulls(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_nulls(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _word(value: Any) -> str:
    if isinstance(value, bytes):
        raise TypeError("a column holds bytes")
    return str(value)  # a date, a decimal number


# ---- the model -------------------------------------------------------------------------------------------
def _encoder(base: Base) -> Ids:
    """Tokens as the model reads them. It raises DataError where there are none, or more than the model takes."""
    from rlhf_plugins.engine.weights.loading import load_row_encoder

    encoder = load_row_encoder(base)

    def encode(where: str, prompt: Text, response: Text) -> tuple[Sequence[int], Sequence[int]]:
        try:
            ids = encoder.encode_within_limit(prompt, response)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        return array("i", ids[0]), array("i", ids[1])  # lists of numbers would take nine times the memory

    return encode


def _tokens(source: str, items: Sequence[Item], encode: Ids) -> list[Any]:
    """The tokens of each response. Raises DataError with all rows that have none, or more than the model takes."""
    dropped, found = Dropped(gathers=True), list[Any]()
    for item in items:
        with dropped.row(item.where):
            found.append([encode(item.where, item.prompt, response) for response in item.responses])
    dropped.refuse(source)
    return found


def _samples(items: Sequence[Item], tokens: Sequence[Any], reads: Collection[str] | None) -> Samples:
    """The responses, with those columns of their rows that the reward reads; None reads all."""
    from rlhf_plugins.data.turns import as_text
    from rlhf_plugins.data.values import by_name

    prompts = [item.prompt for item in items for _ in item.responses]
    written = [as_text(response) for item in items for response in item.responses]
    ids = [pair for of_item in tokens for pair in of_item]
    rows = [row for item in items for row in [item.read()] * len(item.responses)] if reads is None or reads else []
    columns = {name: values for name, values in by_name(rows).items() if reads is None or name in reads}
    of_row = [row for row, item in enumerate(items) for _ in item.responses]
    return Samples(prompts, written, [prompt for prompt, _ in ids], [response for _, response in ids], columns, of_row)


@contextmanager
def _model(
    model: Path | Made, identity: str, cache: Path | None, items: Sequence[Item]
) -> Iterator[tuple[Callable[[Samples], list[Scores]], Collection[str] | None]]:
    """A function from samples to the scores of each response, from the cache where there is one.

    Beside it are the columns that the reward reads; None of one that is no model in a folder.
    """
    from rlhf_plugins.recipe.provenance import opener
    from rlhf_plugins.reward_models.handle import rewards
    from rlhf_plugins.reward_models.opening import columns_read, open_reward
    from rlhf_plugins.reward_models.score_cache import cached_in_shares

    judge = open_reward(model, opener(model)) if isinstance(model, Path) else model.reward()
    if judge.compares:
        _refuse_alone(items, judge.compares)
    if cache is not None and (judge.compares or getattr(judge, "early_exit", False)):
        raise RunError("cache: a reward of this ensemble depends on the other responses of its row: leave it out")
    reads = None if not isinstance(model, Path) and model.folder is None else columns_read(judge)
    if cache is None:
        yield lambda samples: _scores(judge(samples)), reads
        return

    def remembered(samples: Samples, file: Path = cache) -> list[Scores]:
        found = cached_in_shares(file, identity, samples, lambda missing: rewards(judge(missing)))
        return [{"reward": reward} for reward in found]

    yield remembered, reads


def _refuse_alone(items: Sequence[Item], compares: str) -> None:
    alone = [item.where for item in items if len(item.responses) == 1]
    if alone:
        raise RunError(
            f"{alone[0]}: has one response, as have {len(alone)} of {len(items)} rows, and aggregation {compares} "
            "compares the responses of a row: give each `responses`, or `chosen` and `rejected`"
        )


def _scores(prediction: Prediction) -> list[Scores]:
    """The scores of each response; null for a member that did not score it."""
    from rlhf_plugins.reward_models.ensemble import epistemic
    from rlhf_plugins.reward_models.handle import rewards

    columns: dict[str, list[Any]] = {"reward": rewards(prediction)}
    for name in ("variance", "quantiles"):
        if (values := getattr(prediction, name)) is not None:
            columns[name] = values.tolist()
    if prediction.dimensions:
        named = {name: values.tolist() for name, values in prediction.dimensions.items()}
        columns["dimensions"] = [dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)]
    if prediction.members is not None:
        columns["members"] = [[None if math.isnan(r) else r for r in row] for row in prediction.members.tolist()]
        columns["epistemic"] = epistemic(prediction).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
