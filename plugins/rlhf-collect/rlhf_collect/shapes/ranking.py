"""Rankings: the place of each response, by the scores that explain all votes on its pairs best (Davidson 1970)."""

from __future__ import annotations

from typing import Any

from rlhf_collect.aggregate.davidson import fit
from rlhf_collect.aggregate.votes import Vote
from rlhf_collect.shapes.labelled import Labelled
from rlhf_plugins import Comparison, Group, Origin

FILES = ("train", "test")
TIED = 1e-4  # scores closer than this share a place


def file_of(one: Labelled) -> str:
    """By split."""
    return one.split


def row(one: Labelled) -> dict[str, Any]:
    """`prompt`, `responses`, `ranks` (0 is the best), `scores` and `weight`."""
    scores = _scores(one)
    texts = {"prompt": one.item.prompt, "responses": list(one.item.answers), "ranks": _ranks(scores)}
    return {**texts, "scores": scores, "weight": one.weight, **one.provenance(), "origins": list(one.item.origins)}


def group(one: Labelled, origin: Origin, apart: bool) -> Group:
    """K responses with their ranks, or every pair of every vote."""
    return Group(
        one.item.prompt,
        one.item.answers,
        ranks=tuple(_ranks(_scores(one))),
        weight=one.weight,
        compared=tuple(map(_comparison, one.votes)) if apart else None,
        topic=one.item.domain or None,
        columns=one.columns,
        origin=origin,
    )


def columns(one: Labelled, apart: bool) -> set[str]:
    """What a component may need and the row has."""
    ties = {"ties"} if len(set(_ranks(_scores(one)))) < len(one.item.answers) else set()
    return {"ranks", "topic", "weight"} | ties | ({"annotator", "votes"} if apart else set())


def _scores(one: Labelled) -> list[float]:
    pairs = [(*_pair(vote), vote.label) for vote in one.votes]
    return [round(score, 6) for score in fit(pairs, len(one.item.answers)).scores.tolist()]


def _ranks(scores: list[float]) -> list[int]:
    ordered = sorted(range(len(scores)), key=lambda answer: -scores[answer])
    ranks = dict.fromkeys(ordered[:1], 0)
    for better, worse in zip(ordered, ordered[1:], strict=False):
        ranks[worse] = ranks[better] + (scores[better] - scores[worse] > TIED)
    return [ranks[answer] for answer in range(len(scores))]


def _pair(vote: Vote) -> tuple[int, int]:
    first, second = vote.part.split("-")
    return int(first), int(second)


def _comparison(vote: Vote) -> Comparison:
    first, second = _pair(vote)
    better, worse = (second, first) if vote.label == "b" else (first, second)
    return Comparison(better, worse, vote.label == "tie", annotator=f"p{vote.person}")
