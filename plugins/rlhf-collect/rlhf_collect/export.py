"""A release as files: pairs under TRL's columns, ties apart, and CSV that no spreadsheet runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlhf_collect.aggregate.votes import counts
from rlhf_collect.release import Labelled, Release

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def write(release: Release, folder: Path, as_csv: bool = False) -> dict[str, int]:
    """Writes `train`, `test` and `ties` files into the folder; how many rows each has."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "test": [], "ties": []}
    for labelled in release.rows:
        parts["ties" if labelled.verdict.label == "tie" else labelled.split].append(row(labelled, release.number))
    for name, rows in parts.items():
        if as_csv:
            _csv(folder / f"{name}.csv", rows)
        else:
            lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", errors="surrogatepass")
    return {name: len(rows) for name, rows in parts.items()}


def row(labelled: Labelled, number: int) -> dict[str, Any]:
    """One row: TRL's columns, then how far to trust it and where it comes from."""
    item, verdict = labelled.item, labelled.verdict
    names = {"a": ("chosen", "rejected"), "b": ("rejected", "chosen"), "tie": ("response_a", "response_b")}
    texts = dict(zip(names[str(verdict.label)], item.answers, strict=True))
    origins = dict(zip(names[str(verdict.label)], item.origins, strict=True))
    tie = {"label": "tie", "split": labelled.split} if verdict.label == "tie" else {}
    return {
        "prompt": item.prompt,
        **dict(sorted(texts.items())),
        **tie,
        "margin": labelled.margin,
        "weight": verdict.weight,
        "agreement": verdict.agreement,
        "votes": dict(sorted(counts([*labelled.votes]).items())),
        **({"topic": item.domain} if item.domain else {}),
        "item": item.digest,
        "release": number,
        "origins": origins,
    }


def _csv(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    names = list(dict.fromkeys(name for one in rows for name in one))
    with file.open("w", encoding="utf-8", newline="", errors="surrogatepass") as out:
        writer = csv.writer(out)
        writer.writerow(names)
        writer.writerows([_cell(one.get(name)) for name in names] for one in rows)


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe before it."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
