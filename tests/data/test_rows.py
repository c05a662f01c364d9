"""Rows of every format that is read, with the place that names each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from datasets import Dataset

from rlhf_plugins.data.rows import read_rows

ROWS = [{"chosen": "ja, natürlich", "rejected": 'she said "no"\nand left'}, {"chosen": "b\u2028c", "rejected": ""}]


def write(path: Path) -> list[str]:
    """Writes the rows as the path's ending says; the places that should be named."""
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"
    if path.suffix == ".parquet":
        Dataset.from_list(ROWS).to_parquet(path)
    elif path.suffix == ".csv":
        Dataset.from_list(ROWS).to_csv(path, index=False)
        return [f"{path}:3", f"{path}:4"]  # the first row is written on two lines
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(json.dumps(ROWS, indent=1) if path.suffix == ".json" else text, encoding="utf-8")
    lines = ".jsonl" in path.name
    return [f"{path}:1", f"{path}:2"] if lines else [f"{path}[0]", f"{path}[1]"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    places = write(tmp_path / name)
    assert list(read_rows(str(tmp_path / name))) == list(zip(places, ROWS, strict=True))


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"chosen": "a"}\n{"chosen": "b"}')
    assert [fields for _, fields in read_rows(str(tmp_path / "a.json"))] == [{"chosen": "a"}, {"chosen": "b"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_byte_order_mark_windows_line_ends_and_blank_lines_do_no_harm(name: str, tmp_path: Path) -> None:
    lines = {"a.jsonl": '{"chosen": "a"}\n\n{"chosen": "b"}\n\n', "a.csv": "chosen\na\n\nb\n\n"}[name]
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode())
    found = list(read_rows(str(tmp_path / name)))
    assert [fields["chosen"] for _, fields in found] == ["a", "b"]
    if name == "a.jsonl":
        assert [where.rpartition(":")[2] for where, _ in found] == ["1", "3"]


def test_a_long_field_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"chosen": "x" * 3_000_000}))
    ((_, fields),) = read_rows(str(tmp_path / "a.jsonl"))
    assert len(fields["chosen"]) == 3_000_000


def test_a_long_field_of_a_csv_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"chosen,rejected\n{'a' * 200_000},b\n")
    ((_, row),) = read_rows(str(tmp_path / "a.csv"))
    assert len(row["chosen"]) == 200_000
