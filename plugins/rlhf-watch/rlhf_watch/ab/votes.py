"""Reads the judgements of people: a release of `rlhf collect`, whose rows say which model wrote each response."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf_plugins import DataError

FILES = ("train.jsonl", "test.jsonl", "ties.jsonl")
WORTH = {"chosen": 1.0, "rejected": 0.0, "response_a": 0.5, "response_b": 0.5}
Rows = Callable[[Path], Iterator[tuple[str, Mapping[str, Any]]]]


def is_release(folder: Path) -> bool:
    """Whether the folder is one that `rlhf collect export` wrote."""
    return any((folder / name).is_file() for name in FILES) and not (folder / "status.json").exists()


def votes(folder: Path, rows: Rows) -> dict[str, list[tuple[Any, float, str]]]:
    """By model: prompt, 1 where people chose its response, 1/2 at a tie, and the response.

    Raises:
        DataError: a row does not say which models wrote its responses, or there are not two models.
    """
    found: dict[str, list[tuple[Any, float, str]]] = {}
    for file in (folder / name for name in FILES if (folder / name).is_file()):
        for where, row in rows(file):
            for place, worth in WORTH.items():
                if place in row:
                    found.setdefault(_model(row, place, where), []).append((row.get("prompt"), worth, str(row[place])))
    if len(found) != 2:
        raise DataError(f"{folder}: votes on two models are compared, and here are {len(found)}: {', '.join(found)}")
    return found


def _model(row: Mapping[str, Any], place: str, where: str) -> str:
    try:
        return str(row["origins"][place]["model"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: no `origins` says which model wrote its {place}") from error
