"""Reads the judgements of people: releases of `rlhf collect`, whose rows say which model wrote each response."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_plugins import DataError

FILES = ("train.jsonl", "test.jsonl", "ties.jsonl")
WORTH = {"chosen": 1.0, "rejected": 0.0, "response_a": 0.5, "response_b": 0.5}
Rows = Callable[[Path], Iterator[tuple[str, Mapping[str, Any]]]]


def releases(folder: Path) -> list[Path]:
    """The folder itself where `rlhf collect export` wrote it, else those in it, by their numbers; else none."""
    if _is_release(folder):
        return [folder]
    inside = [each for each in folder.iterdir() if each.name.isdecimal()] if folder.is_dir() else []
    return sorted(filter(_is_release, inside), key=lambda each: int(each.name))


def _is_release(folder: Path) -> bool:
    return any((folder / name).is_file() for name in FILES) and not (folder / "status.json").exists()


def votes(folders: Sequence[Path], rows: Rows) -> dict[str, list[tuple[Any, float, str]]]:
    """By model: prompt, 1 where people chose its response, 1/2 at a tie, and the response.

    A prompt is as the first of the releases has it that has it at all, and prompts are in the order of the releases:
    what a look was based on is not changed by later votes.

    Raises:
        DataError: a row does not say which models wrote its responses, or there are not two models.
    """
    found: dict[str, list[tuple[Any, float, str]]] = {}
    known: set[str] = set()
    for folder in folders:
        every = [each for name in FILES if (folder / name).is_file() for each in rows(folder / name)]
        keys = [json.dumps(row.get("prompt"), sort_keys=True) for _, row in every]
        for (where, row), key in zip(every, keys, strict=True):
            for place, worth in WORTH.items():
                if place in row and key not in known:
                    found.setdefault(_model(row, place, where), []).append((row.get("prompt"), worth, str(row[place])))
        known |= {*keys}
    if len(found) != 2:
        names = ", ".join(found)
        raise DataError(f"{folders[-1]}: votes on two models are compared, and here are {len(found)}: {names}")
    return found


def _model(row: Mapping[str, Any], place: str, where: str) -> str:
    try:
        return str(row["origins"][place]["model"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: no `origins` says which model wrote its {place}") from error
