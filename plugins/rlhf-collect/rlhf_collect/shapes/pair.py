"""Pairs: TRL's columns, or a tie."""

from __future__ import annotations

from typing import Any

from rlhf_collect.aggregate.votes import Vote
from rlhf_collect.kinds.pair import WORDS
from rlhf_collect.shapes.labelled import Labelled
from rlhf_plugins import Comparison, Group, Origin

FILES = ("train", "test", "ties")
NAMES = {"a": ("chosen", "rejected"), "b": ("rejected", "chosen"), "tie": ("response_a", "response_b")}


def file_of(one: Labelled) -> str:
    """Ties have a file of their own."""
    return "ties" if one.verdicts[""].label == "tie" else one.split


def row(one: Labelled) -> dict[str, Any]:
    """`prompt`, `chosen` and `rejected`, or two responses that are equally good; `margin` and `weight`."""
    label = str(one.verdicts[""].label)
    places = sorted(range(2), key=lambda place: NAMES[label][place])
    texts = {NAMES[label][place]: one.item.answers[place] for place in places}
    origins = {NAMES[label][place]: one.item.origins[place] for place in places}
    tie = {"label": "tie", "split": one.split} if label == "tie" else {}
    return {"prompt": one.item.prompt, **texts, **tie, "margin": _margin(one), "weight": one.weight} | {
        **one.provenance(),
        "origins": origins,
    }


def group(one: Labelled, origin: Origin, apart: bool) -> Group:
    """Two responses with one comparison, or one a vote."""
    verdict = one.verdicts[""]
    better, tied = int(verdict.label == "b"), verdict.label == "tie"
    whole = Comparison(better, 1 - better, tied, _margin(one), verdict.weight)
    return Group(
        one.item.prompt,
        one.item.answers,
        ranks=(0, 0) if tied else (better, 1 - better),
        margin=_margin(one),
        weight=verdict.weight,
        compared=tuple(map(_comparison, one.votes)) if apart else (whole,),
        topic=one.item.domain or None,
        columns=one.columns,
        origin=origin,
    )


def columns(one: Labelled, apart: bool) -> set[str]:
    """What a component may need and the row has."""
    ties = {"ties"} if one.verdicts[""].label == "tie" else set()
    return {"margin", "ranks", "topic", "weight"} | ties | ({"annotator", "votes"} if apart else set())


def _margin(one: Labelled) -> float:
    """The mean strength in favour of the label; 0 for a tie, and where the mean is against the label."""
    mean = sum(one.values.values()) / len(one.values)
    return max(0.0, WORDS[str(one.verdicts[""].label)] * mean)


def _comparison(vote: Vote) -> Comparison:
    better = int(vote.label == "b")
    return Comparison(better, 1 - better, vote.label == "tie", float(abs(vote.value)), annotator=f"p{vote.person}")
