"""Writes rows to a file in the format of its ending: JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_plugins.data.values import plain
from rlhf_plugins.errors import DataError, nearest

ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".parquet")


def write_rows(path: Path, rows: Sequence[dict[str, Any]], overwrite: bool = False) -> None:
    """Writes rows that have the same fields each.

    Raises:
        DataError: the ending is unknown, the file exists, cannot be written, or cannot hold a value.
    """
    ending = next((e for e in sorted(ENDINGS, key=len, reverse=True) if path.name.endswith(e)), None)
    if ending is None:
        raise DataError(f"{path}: unknown file ending {path.suffix!r} {nearest(path.suffix, ENDINGS)}")
    if path.exists() and not overwrite:
        raise DataError(f"{path}: exists already; replace it with --overwrite")
    encode = {".csv": _csv, ".parquet": _parquet}.get(ending, _json_lines)
    content = encode(path, rows)
    try:
        path.write_bytes(gzip.compress(content, mtime=0) if ending.endswith(".gz") else content)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def _json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, default=plain) + "\n" for row in rows).encode()


def _csv(path: Path, rows: Sequence[dict[str, Any]]) -> bytes:
    lists = [name for row in rows for name, value in row.items() if isinstance(value, list | dict)]
    if lists:
        raise DataError(f"{path}: CSV holds no lists, and {lists[0]!r} is one; write .jsonl or .parquet")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _parquet(path: Path, rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    sink = io.BytesIO()
    try:
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    except pyarrow.ArrowException as error:
        first, *_ = str(error).split("\n")
        raise DataError(f"{path}: cannot be written as Parquet: {first}") from error
    return sink.getvalue()
