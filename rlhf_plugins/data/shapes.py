"""Rows of pairs and battles in the shapes that people have become rows with the columns of their format.

It knows the names that data sets use, no record. A shape is taken where its columns say so alone, and only while the
recipe renames no column of the same meaning; `Dropped.shapes` counts the rows of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf_plugins.contract.rows import Text
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import content, form, required, text
from rlhf_plugins.data.messages import check_answer, with_tools
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.turns import TOOLS, as_answer, as_messages
from rlhf_plugins.errors import DataError, known

TURN = "\n\nAssistant:"  # of the transcripts of hh-rlhf
TALKS = ("messages", "conversations")
QUESTIONS = ("question", "instruction", "query")
SYSTEMS = ("system", "system_prompt")
BATTLES = (("conversation_a", "conversation_b"), ("response_1", "response_2"), ("response1", "response2"))
WINNERS = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}
Fields = dict[str, Any]


# ---- prompts ---------------------------------------------------------------------------------------------
def prompt_of(where: str, fields: Fields, column: str = "prompt") -> tuple[Text | None, str]:
    """The prompt of a row and its shape, without the columns that it was taken from; None where no column holds one.

    That is the column that is named; without a column `prompt` a conversation that does not end with an answer, or else
    the only one of `question`, `instruction` (with its `input`) and `query`. A `system` column and `tools` join it.

    Raises:
        DataError: a column has another type, or several could be the prompt.
    """
    found, shape = _asked(where, fields, column)
    if found is None:
        return None, shape
    return with_tools(where, with_system(where, fields, found), fields.pop(TOOLS, None)), shape


def _asked(where: str, fields: Fields, column: str) -> tuple[Text | None, str]:
    if column != "prompt" or "prompt" in fields:
        value = required(where, column, fields)
        fields.pop(column, None)
        return text(where, column, value), "a prompt"
    for name in TALKS:
        talk: Any = text(where, name, fields[name]) if isinstance(fields.get(name), list) else None
        if talk and talk[-1]["role"] != "assistant":
            del fields[name]
            return talk, f"{name} as the prompt"
    named = [name for name in QUESTIONS if name in fields]
    if len(named) > 1:
        raise DataError(f"{where}: {' and '.join(named)} could be the prompt; say which in `columns`")
    for name in named:
        found, more = text(where, name, fields.pop(name)), fields.pop("input", None) if name == "instruction" else None
        if isinstance(more, str) and more.strip() and isinstance(found, str):
            return f"{found}\n\n{more}", "instruction and input as the prompt"
        return found, f"{name} as the prompt"
    return None, "no prompt"


def with_system(where: str, fields: Fields, prompt: Text) -> Text:
    """The prompt after the text of a `system` column; as messages then."""
    for name in SYSTEMS:
        if isinstance(fields.get(name), str):
            first = fields.pop(name)
            if not first.strip():
                return prompt
            talk = as_messages(prompt)
            if talk and talk[0]["role"] == "system":
                raise DataError(
                    f"{where}: has a column {name!r} and a system turn in its prompt; leave one of them out"
                )
            return [{"role": "system", "content": first}, *talk]
    return prompt


# ---- pairs -----------------------------------------------------------------------------------------------
def shaped_pairs(rows: Iterable[Row], dropped: Dropped, names: tuple[str, str, str]) -> Iterator[Row]:
    """The rows with `prompt`, `chosen` and `rejected` under the names given, in one form, each text read once.

    `chosen` and `rejected` may also be lists of responses. A prompt that all rows repeat at the head of both responses
    is cut off there; a prompt beside whole conversations must be a turn of them.

    Raises:
        DataError: a text is missing or has the wrong type, a response is not the assistant's, or no prompt is found.
    """
    read = [(where, *_pair(where, dict(fields), names)) for where, fields in rows]
    repeated = bool(read) and all(_repeats(pair) for _, _, pair, _ in read if pair[0] is not None)
    for where, fields, (prompt, chosen, rejected), shape in read:
        if prompt is not None and repeated and isinstance(prompt, str) and _repeats((prompt, chosen, rejected)):
            chosen, rejected, shape = (
                chosen[len(prompt) :],
                rejected[len(prompt) :],
                "a prompt repeated in the responses",
            )
        dropped.note_shape(shape)
        yield where, {**fields, names[0]: prompt, names[1]: chosen, names[2]: rejected}


def _repeats(pair: Sequence[Any]) -> bool:
    """Whether both responses are texts that begin with the prompt and go on."""
    prompt, *both = pair
    if not isinstance(prompt, str) or not prompt.strip() or not all(isinstance(one, str) for one in both):
        return False
    return all(one.startswith(prompt) and one[len(prompt) :].strip() for one in both)


def _pair(where: str, fields: Fields, names: tuple[str, str, str]) -> tuple[Fields, tuple[Any, ...], str]:
    column, *sides = names
    has = list(fields)
    if "rejected_response" in fields and "chosen" not in fields and isinstance(fields.get("messages"), list):
        talk = text(where, "messages", fields.pop("messages"))
        given: list[Any] = [talk[-1:], as_answer(text(where, "rejected_response", fields.pop("rejected_response")))]
        fields["prompt"], shape = talk[:-1], "messages and a rejected response"
    else:
        given, shape = [required(where, name, fields) for name in sides], ""
        for name in sides:
            fields.pop(name, None)
    prompt, of_prompt = prompt_of(where, fields, column)
    shape = shape or f"pairs with {of_prompt}"
    if all(map(_all_texts, given)):
        return fields, (prompt, *given), f"lists of right and wrong responses, with {of_prompt}"
    chosen, rejected = (text(where, name, value) for name, value in zip(sides, given, strict=True))
    if form(chosen) != form(rejected):
        raise DataError(f"{where}: {sides[0]} is {form(chosen)}, {sides[1]} is {form(rejected)}")
    if prompt is None:
        return fields, _implicit(where, has, chosen, rejected), shape
    found, more = _one_form(where, column, prompt, chosen, rejected)
    for name, response in zip(sides, found[1:], strict=True):
        check_answer(where, name, response)
    return fields, found, shape + more


def _one_form(where: str, column: str, prompt: Text, chosen: Text, rejected: Text) -> tuple[tuple[Text, ...], str]:
    """Prompt and responses as text or as messages, without a conversation that the responses repeat; and the shape."""
    if isinstance(prompt, str) and isinstance(chosen, str):
        return (prompt, chosen, rejected), ""
    if isinstance(chosen, str) or isinstance(rejected, str):
        return (prompt, as_answer(chosen), as_answer(rejected)), " as messages, responses as text"
    if isinstance(prompt, str):
        if chosen and chosen[0]["role"] == "assistant":
            return (as_messages(prompt), chosen, rejected), " as text beside answers as messages"
        found = _implicit(where, (), chosen, rejected)
        if prompt.strip() not in {message["content"].strip() for message in found[0]}:
            raise DataError(f"{where}: {column} is no turn of the conversations in its responses")
        return found, " as text beside whole conversations"
    bare = [{name: value for name, value in message.items() if name != TOOLS} for message in prompt]
    if all(len(one) > len(bare) > 0 and one[: len(bare)] == bare for one in (chosen, rejected)):
        return (prompt, chosen[len(bare) :], rejected[len(bare) :]), " repeated in the responses"
    return (prompt, chosen, rejected), ""


def _implicit(where: str, has: Sequence[str], chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
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
        lacks = f"has no `prompt` {known('prompt', has)}"
        raise DataError(f"{where}: {lacks}, and chosen and rejected share no beginning that could be one")
    return chosen[:length], chosen[length:], rejected[length:]


# ---- battles ---------------------------------------------------------------------------------------------
def battle(where: str, fields: Mapping[str, Any], dropped: Dropped) -> Fields | None:
    """A row of two responses and a judgement with the columns `prompt`, `response_a`, `response_b` and `label`.

    None where the conversations part before their last turn, so that no prompt is common to the answers; it is counted.

    Raises:
        DataError: a text has the wrong type, or the conversations differ in what the user asks first.
    """
    found = dict(fields)
    for a, b in BATTLES:
        if {a, b} <= found.keys() and "response_a" not in found:
            found["response_a"], found["response_b"] = found.pop(a), found.pop(b)
    _winner(where, found)
    if "overall_preference" in found and "strength_a_minus_b" not in found:  # of HelpSteer 3: below 0 for the first
        value = found.pop("overall_preference")
        found["strength_a_minus_b"] = None if value is None else -float(value)
    if "prompt" not in found and isinstance(found.get("context"), list):
        found["prompt"] = found.pop("context")
    sides: list[Any] = [found.get("response_a"), found.get("response_b")]
    if _all_texts(found.get("prompt")) and all(map(_all_texts, sides)):
        sides = [_turns(where, found["prompt"], side) for side in sides]
        del found["prompt"]
    if "prompt" not in found and all(isinstance(side, list) for side in sides):
        talks: list[Any] = [
            text(where, name, side) for name, side in zip(("response_a", "response_b"), sides, strict=True)
        ]
        a, b = talks
        if a != b and a[:-1] != b[:-1]:
            dropped.add("the conversations part before their last turn", where)
            return None
        dropped.note_shape("battles of two conversations")
        return {**found, "prompt": a[:-1], "response_a": a[-1:], "response_b": b[-1:]}
    return found


def _all_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) or one is None for one in value)


def _turns(where: str, asked: Sequence[Any], answers: Sequence[Any]) -> list[dict[str, str]]:
    """Questions and their answers, one list each, as a conversation."""
    if len(asked) != len(answers):
        raise DataError(f"{where}: has {len(asked)} turns of the user and {len(answers)} answers")
    turns = (
        ({"role": "user", "content": q or ""}, {"role": "assistant", "content": a or ""})
        for q, a in zip(asked, answers, strict=True)
    )
    return [message for turn in turns for message in turn]


def _winner(where: str, found: Fields) -> None:
    """Puts the winner under `label`: a column `winner`, or one of three columns that has a 1."""
    if "label" not in found and "winner" in found:
        found["label"] = found.pop("winner")
    if "label" in found or not WINNERS.keys() <= found.keys():
        return
    won = [word for name, word in WINNERS.items() if str(found[name]).strip().lower() in ("1", "1.0", "true")]
    if len(won) != 1:
        raise DataError(f"{where}: one of {', '.join(WINNERS)} must be 1, and {len(won)} are")
    for name in WINNERS:
        del found[name]
    (found["label"],) = won
