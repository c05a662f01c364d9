"""Text rows as conversations, which a chat template renders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.shapes import HUMAN, TURN, TURNS
from rlhf_plugins.data.messages import check_answer
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.splits import Placed, Read
from rlhf_plugins.data.turns import QUESTIONS, as_answer, as_messages
from rlhf_plugins.errors import DataError

ROLES = {HUMAN: "user", TURN: "assistant"}
NO_TURN = (
    "has no column of the prompt, and a text that both responses begin with is no turn of a user: add a column `prompt`"
)


def as_conversations(read: Read, implicit: str | None = None) -> Read:
    """A reader whose texts are messages: a prompt is the user's turn, a response the assistant's.

    A transcript of hh-rlhf becomes its turns, without the white space around them. Messages stay as they are.

    Args:
        read: a format's reader.
        implicit: the column of the prompt, where rows without it have what their responses share.

    Raises:
        DataError: a text has an implicit prompt that is no transcript, or a transcript ends within an answer.
    """

    def reader(rows: Iterable[Row], dropped: Dropped) -> Iterator[Placed]:
        shared = set[str]()
        for where, group in read(rows if implicit is None else _noted(rows, implicit, shared), dropped):
            with dropped.row(where):
                yield where, conversation(where, group, where in shared)

    return reader


def conversation(where: str, group: Group, implicit: bool) -> Group:
    """The group with messages in the place of text. Raises DataError as `as_conversations` does."""
    prompt = group.prompt
    if not isinstance(prompt, str):
        return group
    if not prompt.startswith(HUMAN):
        if implicit:
            raise DataError(f"{where}: {NO_TURN}")
        return replace(group, prompt=as_messages(prompt), responses=tuple(map(as_answer, group.responses)))
    asked = _turns(prompt)
    if asked[-1]["role"] == "assistant" and asked.pop()["content"]:
        raise DataError(f"{where}: the prompt is a transcript that ends within an answer")
    answers = [_turns(f"{TURN}{response}") for response in group.responses]
    for answer in answers:
        check_answer(where, "the transcript of a response", answer)
    return replace(group, prompt=asked, responses=tuple(answers))


def _turns(transcript: str) -> list[dict[str, Any]]:
    """The messages of a text that begins with the mark of a turn."""
    marks, (_, *said) = TURNS.findall(transcript), TURNS.split(transcript)
    return [{"role": ROLES[mark], "content": text.strip()} for mark, text in zip(marks, said, strict=True)]


def _noted(rows: Iterable[Row], prompt: str, without: set[str]) -> Iterator[Row]:
    """The rows; the places of those without a column of the prompt are put into the set."""
    for where, fields in rows:
        if prompt == "prompt" and fields.keys().isdisjoint(("prompt", *QUESTIONS)):
            without.add(where)
        yield where, fields
