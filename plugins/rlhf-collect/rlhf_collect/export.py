"""A release as files of JSON lines, or as CSV that no spreadsheet runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlhf_collect.release import Release
from rlhf_collect.shapes.every import SHAPES

FORMULA = (*"=+-@\uff1d\uff0b\uff0d\uff20", "\t", "\r", "\n")  # some spreadsheets read full-width signs too


def write(release: Release, folder: Path, as_csv: bool = False) -> dict[str, int]:
    """Writes `train`, `test` and, of pairs, `ties` into the folder; how many rows each file has.

    Files without a row are written too, or those of another release would stay beside this one's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = SHAPES[release.kind]
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in shape.FILES}
    for one in release.rows:
        parts[shape.file_of(one)].append({**shape.row(one), "release": release.number})
    for name, rows in parts.items():
        if as_csv:
            _csv(folder / f"{name}.csv", rows)
        else:
            lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", errors="surrogatepass")
    return {name: len(rows) for name, rows in parts.items()}


def _csv(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    names = list(dict.fromkeys(name for one in rows for name in one))
    with file.open("w", encoding="utf-8", newline="", errors="surrogatepass") as out:
        writer = csv.writer(out)
        writer.writerow(names)
        writer.writerows([_cell(one.get(name)) for name in names] for one in rows)


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe before it."""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
