"""Rows with a list of answers, each with its rank or score, or with the best of them, get the columns of a format.

A row is taken where its names leave no doubt, else it stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rlhf_plugins.data.turns import QUESTIONS, TALKS
from rlhf_plugins.data.values import all_texts

LISTS = ("responses", "answers", "completions", "candidates")
TEXTS = ("text", "answer", "response", "completion", "content")  # of an element that is an object
RANKS, SCORES = ("rank",), ("score", "rating", "reward")  # of such an element
HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")  # ratings of one answer
BESIDE = ("scores", "ratings", "rewards")  # lists beside a list of texts
BEST = "best"  # the place of the best of n texts, from 0
Fields = dict[str, Any]


def as_ranking(fields: Mapping[str, Any]) -> Fields | None:
    """The row with `responses` and `ranks`, or with what `best` says as `pairwise`; None where it is no such list."""
    found = _elements(fields)
    if found is None or not fields.keys().isdisjoint(("ranks", "ranking", "pairwise")):
        return None
    name, elements = found
    if all_texts(elements):
        best = fields.get(BEST)
        if not isinstance(best, int) or isinstance(best, bool) or not 0 <= best < len(elements):
            return None
        others = [place for place in range(len(elements)) if place != best]
        judged = [{"i": best, "j": other, "winner": best} for other in others]
        return {**_without(fields, name, BEST), "responses": elements, "pairwise": judged}
    read = _texts_and(elements, RANKS)
    return read and {**_without(fields, name), "responses": read[0], "ranks": read[1]}


def as_rating(fields: Mapping[str, Any]) -> Fields | None:
    """The row with `responses` and their `score`, a list beside them of any length; None where it is no such list."""
    found = _elements(fields)
    if found is None:
        return None
    name, elements = found
    if all_texts(elements):
        beside = _only(BESIDE, fields)
        scores = fields.get(beside) if beside else None
        if beside is None or not isinstance(scores, list):
            return None
        return {**_without(fields, name, beside), "responses": elements, "score": scores}
    read = _texts_and(elements, SCORES)
    return read and {**_without(fields, name), "responses": read[0], "score": read[1]}


def is_list(fields: Mapping[str, Any]) -> bool:
    """Whether a row is a list of judged answers, whatever else it has."""
    return as_ranking(fields) is not None or as_rating(fields) is not None


def _elements(fields: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
    """The one list of answers that a row with a prompt has, and its name."""
    name = _only(LISTS, fields)
    listed = fields.get(name) if name else None
    if name is None or not isinstance(listed, list) or len(listed) < 2:
        return None
    asked = not fields.keys().isdisjoint(("prompt", *QUESTIONS, *TALKS))
    alike = all_texts(listed) or all(isinstance(one, Mapping) for one in listed)
    return (name, listed) if asked and alike else None


def _texts_and(elements: list[Any], names: Iterable[str]) -> tuple[list[Any], list[Any]] | None:
    """The texts of objects and what they have under the one of these names; None where one lacks either."""
    inner, judged = _only(TEXTS, elements[0]), _only(names, elements[0])
    if inner is None or judged is None or not all({inner, judged} <= one.keys() for one in elements):
        return None
    return [one[inner] for one in elements], [one[judged] for one in elements]


def _only(names: Iterable[str], fields: Mapping[str, Any]) -> str | None:
    """The one of the names that is there; None where none is, or several are."""
    found = [name for name in names if name in fields]
    return found[0] if len(found) == 1 else None


def _without(fields: Mapping[str, Any], *names: str) -> Fields:
    return {name: value for name, value in fields.items() if name not in names}
