"""Prompts and pairs in the shapes that people have become texts of one form.

A shape is taken where its columns say so alone, and only while the recipe renames no column of the same meaning;
`Dropped.shapes` counts the rows of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf_plugins.contract.rows import Text
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import asked, blank, content, form, required, shown, text
from rlhf_plugins.data.formats.column_hints import as_columns, without_prompt
from rlhf_plugins.data.messages import check_answer, with_tools
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.sources import Columns, PairColumns
from rlhf_plugins.data.turns import PAIRED, QUESTIONS, TALK, TALKS, TOOLS, as_answer, as_messages
from rlhf_plugins.data.values import SPOKEN, all_texts, spelled
from rlhf_plugins.errors import DataError, nearest

HUMAN, TURN = "\n\nHuman:", "\n\nAssistant:"  # of the transcripts of hh-rlhf
TURNS = re.compile(f"{HUMAN}|{TURN}")
INPUTS = ("input", "context")  # beside an instruction
SYSTEMS = ("system", "system_prompt")
HISTORY = "history"  # earlier turns in Alpaca's rows
Fields = dict[str, Any]


# ---- prompts ---------------------------------------------------------------------------------------------
def prompt_of(where: str, fields: Fields, column: str = "prompt") -> tuple[Text | None, str]:
    """The prompt of a row and its shape, without the columns that it was taken from; None where no column holds one.

    That is the column that is named; without a column `prompt` a conversation that does not end with an answer, or else
    the only one of `question`, `instruction` (with its `input` or `context`) and `query`. A `system` column and `tools`
    join it.

    Raises:
        DataError: a column has another type, or several could be the prompt.
    """
    found, shape = _asked(where, fields, column)
    return found if found is None else opened(where, fields, found), shape


def talks_in(fields: Mapping[str, Any]) -> list[str]:
    """The columns of a row that hold a conversation; `conversation` only where it is one of messages."""
    found = [name for name in TALKS if isinstance(fields.get(name), list)]
    talk = fields.get(TALK)
    spoken = isinstance(talk, list) and all(isinstance(m, Mapping) and not SPOKEN.isdisjoint(m) for m in talk)
    return [*found, TALK] if talk and spoken else found


def opened(where: str, fields: Fields, prompt: Text) -> Text:
    """The prompt with the system turn and the tools that other columns hold."""
    return with_tools(where, with_system(where, fields, prompt), fields.pop(TOOLS, None))


def opened_prompt(where: str, given: Fields, column: str) -> tuple[Text, set[str]]:
    """The prompt as `prompt_of` finds it, and the columns that it was taken from. Raises DataError without one."""
    fields = dict(given)
    prompt, _ = prompt_of(where, fields, column)
    if prompt is None:
        raise DataError(f"{where}: lacks the column {column!r} {nearest(column, given)}")
    return prompt, given.keys() - fields.keys()


def _asked(where: str, fields: Fields, column: str) -> tuple[Text | None, str]:
    if column != "prompt" or "prompt" in fields:
        value = required(where, column, fields)
        fields.pop(column, None)
        return asked(where, column, value), "a prompt"
    for name in talks_in(fields):
        talk: Any = text(where, name, fields[name])
        if talk and talk[-1]["role"] != "assistant":
            del fields[name]
            return talk, f"{name} as the prompt"
    named = [name for name in QUESTIONS if name in fields]
    if len(named) > 1:
        raise DataError(f"{where}: {' and '.join(named)} could be the prompt; say which in `columns`")
    for name in named:
        if not _empty(fields.get(HISTORY)):
            message = (
                f"has a column {HISTORY!r} beside {name!r}; write earlier turns as messages in one column, `messages`"
            )
            raise DataError(f"{where}: {message}")
        found = asked(where, name, fields.pop(name))
        inputs = {each: fields.pop(each) for each in INPUTS if name == "instruction" and each in fields}
        filled = {each: more for each, more in inputs.items() if not _empty(more)}
        if not filled:
            return found, f"{name} as the prompt"
        each, more = next(iter(filled.items()))
        if len(filled) > 1 or not (isinstance(more, str) and isinstance(found, str)):
            has = f"{name} is {form(found)} and {' and '.join(f'{key} {form(value)}' for key, value in filled.items())}"
            raise DataError(f"{where}: {has}; it should be text, and one of {', '.join(INPUTS)} text beside it")
        return f"{found}\n\n{more}", f"{name} and {each} as the prompt"
    return None, "no prompt"


def _empty(value: Any) -> bool:
    return value in (None, "", [], {}) or (isinstance(value, str) and not value.strip())


def with_system(where: str, fields: Fields, prompt: Text) -> Text:
    """The prompt as messages after the text of a `system` column, which may be blank; as it is without one.

    Raises:
        DataError: a column holds no text, two hold one, or the prompt has a system turn or is a transcript.
    """
    cells, talk = {name: fields.pop(name) for name in SYSTEMS if name in fields}, as_messages(prompt)
    if not cells:
        return prompt
    for name, cell in cells.items():
        if cell is not None and not isinstance(cell, str):
            raise DataError(f"{where}: {name} must be text, found {shown(cell)}")
    if isinstance(prompt, str) and prompt.startswith(HUMAN):
        raise DataError(f"{where}: has a column {min(cells)!r} beside a transcript, which has no place for it")
    filled = {name: cell for name, cell in cells.items() if cell and cell.strip()}
    if len(filled) > 1:
        raise DataError(f"{where}: has a text in {' and in '.join(filled)}; leave one of them out")
    if not filled:
        return talk
    ((name, first),) = filled.items()
    if talk and talk[0]["role"] == "system":
        raise DataError(f"{where}: has a column {name!r} and a system turn in its prompt; leave one of them out")
    return [{"role": "system", "content": first}, *talk]


def with_system_cells(rows: Iterable[Row]) -> list[Row]:
    """The rows, each with a `system` column where one of them has it, so that all their prompts are messages."""
    found = list(rows)
    name = next((name for name in SYSTEMS if any(name in fields for _, fields in found)), None)
    return found if name is None else [(where, {name: None, **fields}) for where, fields in found]


def as_named(columns: Columns, names: Iterable[str]) -> bool:
    """Whether the recipe renames none of these columns, so that the names of known shapes may be taken for them."""
    return all(getattr(columns, name) == getattr(type(columns), name) for name in names)


# ---- pairs -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Pair:
    """A row of a pair, whose texts have one form: messages, text, or lists of texts."""

    where: str
    fields: Mapping[str, Any]  # as they are written
    texts: tuple[Any, Any, Any]  # the prompt (None where there is none), chosen and rejected
    read: frozenset[str]  # the columns that the texts are made of


def shaped_pairs(rows: Iterable[Row], dropped: Dropped, columns: PairColumns) -> Iterator[Pair]:
    """The rows with `prompt`, `chosen` and `rejected` in one form, each text read once.

    `chosen` and `rejected` may also be lists of responses. A prompt that all useful rows of the source repeat at the
    head of both responses is cut off there; a prompt beside whole conversations must be a turn of them.

    Raises:
        DataError: a text is missing or has the wrong type, a response is not the assistant's, or no prompt is found.
    """
    read = []
    for where, fields in with_system_cells(rows):
        with dropped.row(where):
            read.append(_pair(where, fields, columns))
    said = [pair.texts for pair, _ in read if not _says_nothing(pair.texts)]
    repeated = bool(said) and all(map(_repeats, said))
    for pair, shape in read:
        prompt, chosen, rejected = pair.texts
        if repeated and _repeats(pair.texts):
            rest = (prompt, chosen[len(prompt) :], rejected[len(prompt) :])
            pair, shape = replace(pair, texts=rest), "a prompt repeated in the responses"
        dropped.note_shape(shape)
        yield pair


def _says_nothing(texts: Sequence[Any]) -> bool:
    """Whether a pair is left out later, so that it does not show the shape of its source."""
    prompt, chosen, rejected = texts
    return prompt in (None, "") or chosen == rejected or "" in (chosen, rejected)


def _repeats(texts: Sequence[Any]) -> bool:
    """Whether both responses are texts that begin with the prompt."""
    prompt, *both = texts
    if not isinstance(prompt, str) or not prompt.strip() or not all(isinstance(one, str) for one in both):
        return False
    return all(one.startswith(prompt) for one in both)


def _pair(where: str, given: Mapping[str, Any], columns: PairColumns) -> tuple[Pair, str]:
    fields, shape = dict(given), ""
    usual = fields.keys().isdisjoint(("chosen", "rejected")) and as_named(columns, ("chosen", "rejected"))
    if named := next((names for names in PAIRED if usual and set(names) <= fields.keys()), None):
        columns = replace(columns, chosen=named[0], rejected=named[1])
    sides = (columns.chosen, columns.rejected)
    spoken = usual and not named and "rejected_response" in fields and isinstance(fields.get("messages"), list)
    if spoken and as_named(columns, ("prompt",)):
        talk = text(where, "messages", fields.pop("messages"))
        both: list[Any] = [talk[-1:], as_answer(text(where, "rejected_response", fields.pop("rejected_response")))]
        fields["prompt"], shape = talk[:-1], "messages and a rejected response"
    else:
        _refuse_other_names(where, fields, columns)
        both = [required(where, name, fields) for name in sides]
        for name in sides:
            fields.pop(name, None)
    prompt, of_prompt = prompt_of(where, fields, columns.prompt)
    shape = shape or f"pairs with {of_prompt}" + (f", in {' and '.join(named)}" if named else "")
    if any(map(all_texts, both)) and all(one == [] or all_texts(one) for one in both):
        if prompt is None:
            raise DataError(f"{where}: has no `prompt` {nearest('prompt', given)}; {without_prompt(given)}")
        texts, shape = (prompt, *both), f"lists of right and wrong responses, with {of_prompt}"
    else:
        texts, more = _texts(where, given, columns, (prompt, *both))
        shape += more
        if prompt is None and texts[0] is not None:
            texts = (opened(where, fields, texts[0]), *texts[1:])
    return Pair(where, given, texts, frozenset(given.keys() - fields.keys())), shape


def _refuse_other_names(where: str, fields: Fields, columns: PairColumns) -> None:
    """Raises DataError where a row lacks responses and the recipe gives no names of them."""
    lacking = [name for name in ("chosen", "rejected") if name not in fields]
    if not lacking or not as_named(columns, ("chosen", "rejected")):
        return
    cure = as_columns(fields) or ("columns: {chosen: NAME, rejected: NAME}" if len(lacking) == 2 else "")
    lacks = f"lacks the column {lacking[0]!r} {nearest(lacking[0], fields)}"
    raise DataError(f"{where}: {lacks}" + (f"; if they have other names, write `{cure}`" if cure else ""))


def _texts(where: str, fields: Mapping[str, Any], columns: PairColumns, given: Sequence[Any]) -> tuple[Any, str]:
    """Prompt and responses in one form, and the words that say more of the shape."""
    sides = (columns.chosen, columns.rejected)
    prompt, chosen, rejected = given[0], *(text(where, *each) for each in zip(sides, given[1:], strict=True))
    if form(chosen) != form(rejected):
        raise DataError(f"{where}: {sides[0]} is {form(chosen)}, {sides[1]} is {form(rejected)}")
    if prompt is None:
        found, more = _implicit(where, fields, chosen, rejected), ""
    else:
        found, more = _one_form(where, prompt, chosen, rejected)
    for name, response in zip(sides, found[1:] if found[0] is not None else (), strict=False):
        check_answer(where, name, response)
    return found, more


def _one_form(where: str, prompt: Text, chosen: Text, rejected: Text) -> tuple[tuple[Any, ...], str]:
    """Prompt and responses as text or as messages, without a conversation that the responses repeat; and the shape."""
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        if all(all_texts(spelled(one)) for one in (prompt, chosen, rejected)):
            raise DataError(f"{where}: prompt and responses are texts that spell lists; write the turns as messages")
        if not (chosen.startswith(HUMAN) and rejected.startswith(HUMAN)) or prompt.startswith(HUMAN):
            return (prompt, chosen, rejected), ""
        return _cut(where, prompt, chosen, rejected), " as text beside whole transcripts"
    if isinstance(chosen, str) or isinstance(rejected, str):
        return (prompt, as_answer(chosen), as_answer(rejected)), " as messages, responses as text"
    if isinstance(prompt, str):
        if chosen and chosen[0]["role"] == "assistant":
            return (as_messages(prompt), chosen, rejected), " as text beside answers as messages"
        return _cut(where, prompt, chosen, rejected), " as text beside whole conversations"
    bare = [{name: value for name, value in message.items() if name != TOOLS} for message in prompt]
    if all(len(one) > len(bare) > 0 and one[: len(bare)] == bare for one in (chosen, rejected)):
        return (prompt, chosen[len(bare) :], rejected[len(bare) :]), " repeated in the responses"
    return (prompt, chosen, rejected), ""


def _cut(where: str, prompt: str, chosen: Any, rejected: Any) -> tuple[Any, ...]:
    """Whole conversations cut where they part; the prompt must be a turn of what they share. Equal ones are not cut."""
    found = _implicit(where, {}, chosen, rejected)
    shared = chosen if found[0] is None else found[0]
    turns = TURNS.split(shared) if isinstance(shared, str) else [message["content"] for message in shared]
    if not blank(shared) and prompt.strip() not in {turn.strip() for turn in turns}:
        raise DataError(f"{where}: the prompt is no turn of the conversations in its responses")
    return found


def _implicit(where: str, fields: Mapping[str, Any], chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """The implicit prompt: what chosen and rejected share at their start, up to the last turn of the assistant.

    In text that has no turns as hh-rlhf writes them it ends with a whole word: as with TRL a space before the first
    different word belongs to the responses; a line break belongs to the prompt. No prompt is found in equal or empty
    responses, which are left out later.
    """
    if chosen == rejected or not content(chosen).strip() or not content(rejected).strip():
        return None, chosen, rejected
    both = zip(chosen, rejected, strict=False)
    length = next((i for i, (a, b) in enumerate(both) if a != b), min(len(chosen), len(rejected)))
    if isinstance(chosen, str):
        turn = chosen.rfind(TURN, 0, length)
        words = max(chosen.rfind(" ", 0, length), chosen.rfind("\n", 0, length) + 1)
        length = turn + len(TURN) if turn >= 0 else words
    else:
        length = min(length, len(chosen) - 1, len(rejected) - 1)
        while length > 0 and {chosen[length]["role"], rejected[length]["role"]} != {"assistant"}:
            length -= 1
    if length <= 0:
        lacks = f"has no `prompt` {nearest('prompt', fields)}"
        shared = "chosen and rejected share no beginning that could be one (an implicit prompt)"
        raise DataError(f"{where}: {lacks}, and {shared}; {without_prompt(fields)}")
    return chosen[:length], chosen[length:], rejected[length:]
