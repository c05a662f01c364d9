"""Battles in the shapes that people have: two answers or conversations and a judgement."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import number, text
from rlhf_plugins.data.values import all_texts, spelled
from rlhf_plugins.errors import DataError

HELPSTEER3 = ("response1", "response2")
SHP = {"history", "human_ref_A", "human_ref_B", "labels"}  # of SHP, with 1 for A and 0 for B
NUMBERED, BETTER = ("response_0", "response_1"), ("better_response_id", "safer_response_id")  # of PKU-SafeRLHF
SUMMARIES = {"info", "summaries", "choice"}  # of a post or an article
BATTLES = (("conversation_a", "conversation_b"), ("response_1", "response_2"), HELPSTEER3)
WINNERS = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}
ARENA = {"model_a", "model_b", *WINNERS}


def battle(where: str, fields: Mapping[str, Any], dropped: Dropped) -> dict[str, Any] | None:
    """A row of two responses and a judgement with the columns `prompt`, `response_a`, `response_b` and `label`.

    None where the conversations part before their last turn, so that no prompt is common to the answers; it is counted.

    Raises:
        DataError: a text has the wrong type, questions and answers differ in number or are spelled as lists, a
            preference is no number, or none or several of three columns name the winner.
    """
    found, shape = dict(fields), ""
    if set(HELPSTEER3) <= found.keys() and "label" not in found and "overall_preference" in found:
        preference = number(where, "overall_preference", found.pop("overall_preference"))  # below 0 for the first
        shape = "battles of HelpSteer3"
        found["strength_a_minus_b"] = None if preference is None else -preference
    if found.keys() >= SUMMARIES and not {"prompt", "response_a", "label"} & found.keys():
        found, shape = _summaries(where, found), "two summaries and a choice"
    if found.keys() >= SHP and not {"prompt", "response_a", "response_b", "label"} & found.keys():
        found, shape = _of_shp(where, found), "two comments of SHP"
    for a, b in BATTLES:
        if {a, b} <= found.keys() and "response_a" not in found:
            found["response_a"], found["response_b"] = found.pop(a), found.pop(b)
    if _winner(where, found):
        shape = shape or f"battles with {', '.join(WINNERS)}"
    if "prompt" not in found and isinstance(found.get("context"), list):
        found["prompt"] = found.pop("context")
    sides: list[Any] = [found.get("response_a"), found.get("response_b")]
    if turns := _spelled(where, [found.get("prompt"), *sides], not ARENA.isdisjoint(fields)):
        found["prompt"], *sides = turns
    if all_texts(found.get("prompt")) and all(map(all_texts, sides)):
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
    if shape:
        dropped.note_shape(shape)
    return found


def numbered(where: str, fields: Mapping[str, Any], column: str, known: Container[str]) -> dict[str, Any]:
    """A row of `response_0` and `response_1` with columns `response_a`, `response_b` and the label's words.

    Args:
        where: the row's place.
        fields: the fields of the row.
        column: the column of the label.
        known: words of a label; the numbers 0 and 1 are read where they are none of these.

    Raises:
        DataError: no label is named, and two columns have the number of a better response.
    """
    found = dict(fields)
    found["response_a"], found["response_b"] = (found.pop(name) for name in NUMBERED)
    if column not in found:
        named = [name for name in ("winner", *BETTER) if name in found]
        if len(named) > 1:
            which = f"{' and '.join(named)} name a better response each"
            raise DataError(f"{where}: {which}; say which is meant, such as `columns: {{label: {named[0]}}}`")
        found |= {column: found.pop(named[0])} if named else {}
    label = str(found.get(column)).strip().lower()
    for place, (name, word) in enumerate(zip(NUMBERED, "ab", strict=True)):
        if label == name or (label == str(place) and label not in known):
            found[column] = word
    return found


def _of_shp(where: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Two comments on a post, of which `labels` is 1 for the first and 0 for the second."""
    if str(found["labels"]) not in ("0", "1"):
        raise DataError(f"{where}: labels must be 1 where human_ref_A is preferred and 0 where human_ref_B is")
    rest = {name: value for name, value in found.items() if name not in SHP}
    texts = {"prompt": found["history"], "response_a": found["human_ref_A"], "response_b": found["human_ref_B"]}
    return {**rest, **texts, "label": "ba"[int(found["labels"])]}


def _summaries(where: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Two summaries, of which `choice` names the better one, 0 or 1."""
    info, texts, choice = found["info"], found["summaries"], found["choice"]
    asked = [info[name] for name in ("post", "article") if info.get(name)] if isinstance(info, Mapping) else []
    sides = [one.get("text") for one in texts if isinstance(one, Mapping)] if isinstance(texts, list) else []
    if len(asked) != 1 or len(sides) != 2 or choice not in (0, 1, None):
        raise DataError(f"{where}: should have one post or article in info, two summaries, and a choice of 0 or 1")
    rest = {name: value for name, value in found.items() if name not in SUMMARIES}
    label = None if choice is None else "ab"[choice]
    return {**rest, "prompt": asked[0], "response_a": sides[0], "response_b": sides[1], "label": label}


def _spelled(where: str, cells: Sequence[Any], of_arena: bool) -> list[Any] | None:
    """The lists of turns that a prompt and two answers spell; None where they are texts.

    Raises:
        DataError: only some of an arena's spell one, or all do in a row that is no arena's.
    """
    lists = [spelled(cell) if isinstance(cell, str) else None for cell in cells]
    listed = [all_texts(one) for one in lists]
    if not listed[0] or not (of_arena or all(listed)):
        return None
    if of_arena and all(listed):
        return lists
    few = "" if all(listed) else ", and not both answers do"
    raise DataError(f"{where}: prompt is a text that spells a list of texts{few}; write the turns as messages")


def _turns(where: str, asked: Sequence[Any], answers: Sequence[Any]) -> list[dict[str, str]]:
    """Questions and their answers, one list each, as a conversation."""
    if len(asked) != len(answers):
        raise DataError(f"{where}: has {len(asked)} turns of the user and {len(answers)} answers")
    turns = (
        ({"role": "user", "content": q or ""}, {"role": "assistant", "content": a or ""})
        for q, a in zip(asked, answers, strict=True)
    )
    return [message for turn in turns for message in turn]


def _winner(where: str, found: dict[str, Any]) -> bool:
    """Puts the winner under `label`: a column `winner`, or one of three columns that has a 1; whether of three."""
    if "label" not in found and "winner" in found:
        found["label"] = found.pop("winner")
    if "label" in found or not WINNERS.keys() <= found.keys():
        return False
    won = [word for name, word in WINNERS.items() if str(found[name]).strip().lower() in ("1", "1.0", "true")]
    if len(won) != 1:
        raise DataError(f"{where}: one of {', '.join(WINNERS)} must be 1, and {len(won)} are")
    for name in WINNERS:
        del found[name]
    (found["label"],) = won
    return True
