"""Ratings: the mean of each dimension of each response."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from rlhf_collect.shapes.labelled import Labelled
from rlhf_plugins import Group, Origin

FILES = ("train", "test")


def file_of(one: Labelled) -> str:
    """By split."""
    return one.split


def row(one: Labelled) -> dict[str, Any]:
    """`prompt` and `responses`, each with its `text` and mean ratings."""
    means = _means(one)
    responses = [
        {"text": text, **{name: rated[place] for name, rated in means.items()}}
        for place, text in enumerate(one.item.answers)
    ]
    return {"prompt": one.item.prompt, "responses": responses, **one.provenance(), "origins": list(one.item.origins)}


def group(one: Labelled, origin: Origin, apart: bool) -> Group:
    """K responses with their ratings."""
    ratings = {name: tuple(rated) for name, rated in _means(one).items()}
    return Group(
        one.item.prompt,
        one.item.answers,
        ratings=ratings,
        topic=one.item.domain or None,
        columns=one.columns,
        origin=origin,
    )


def columns(one: Labelled, apart: bool) -> set[str]:
    """What a component may need and the row has."""
    return {"ratings", "topic"}


def _means(one: Labelled) -> dict[str, list[float]]:
    given = list(one.values.values())
    return {
        name: [fmean(value[name][place] for value in given) for place in range(len(one.item.answers))]
        for name in given[0]
    }
