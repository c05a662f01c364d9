"""Files of rows of every kind, packed and in folders: all say the same rows."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.rows import no_such_split, read_rows
from rlhf_plugins.errors import DataError
from rlhf_plugins.recipe.assemble import component

ROWS = [{"prompt": "p", "chosen": "a"}, {"prompt": "q", "chosen": "b"}]
LINES = "\n".join(map(json.dumps, ROWS)).encode()


def fields(source: Path, split: str = "train") -> list[dict[str, Any]]:
    return [row for _, row in read_rows(str(source), split)]


def zstd(content: bytes) -> bytes:
    return bytes(pyarrow.Codec("zstd").compress(content, asbytes=True))


def test_packed_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(zstd(LINES))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"prompt,chosen\np,a\nq,b\n"))
    assert fields(tmp_path / "a.jsonl.zst") == fields(tmp_path / "a.csv.gz") == ROWS


def test_arrow_in_both_of_its_formats(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    for name, new in (("file", pyarrow.ipc.new_file), ("stream", pyarrow.ipc.new_stream)):
        with new(str(tmp_path / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)
        assert fields(tmp_path / f"{name}.arrow") == ROWS


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    splits = {"train": Dataset.from_list(ROWS[:1]), "test": Dataset.from_list(ROWS[1:])}
    DatasetDict(splits).save_to_disk(str(tmp_path / "two"))
    assert fields(tmp_path / "one") == ROWS
    assert [fields(tmp_path / "two", split) for split in splits] == [ROWS[:1], ROWS[1:]]


def test_a_folder_of_parts_is_read_in_order_and_by_split(tmp_path: Path) -> None:
    for number, name in enumerate(("train-0", "train-1", "test-0")):
        parquet.write_table(pyarrow.Table.from_pylist([{"n": number}]), tmp_path / f"{name}.parquet")
    assert [row["n"] for row in fields(tmp_path)] == [0, 1]
    assert [row["n"] for row in fields(tmp_path, "test")] == [2]
    with pytest.raises(DataError, match="no file begins with 'tset', and test-0.parquet, train-0.parquet, train-1"):
        fields(tmp_path, "tset")


def test_files_of_any_held_out_split_are_rows_to_test_on(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text('{"n": 1}')
    assert fields(tmp_path, "test") == [{"n": 1}]
    with pytest.raises(DataError, match="no file begins with 'train', and eval.jsonl with another split"):
        fields(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.zst", b"no zstd", "cannot be read"),
        ("a.jsonl.zst", zstd(LINES)[:-9], "cannot be read"),
        ("b.jsonl.zst", zstd(b"\n" * 2**25), "unpacks to over 200 times its size"),
        ("a.arrow", b"no arrow", "cannot be read as Arrow"),
        ("a.parquet.gz", b"", "only text is read packed"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        fields(tmp_path / name)


def test_a_folder_without_one_kind_of_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no file of rows; name a file"):
        fields(tmp_path)
    for name in ("a.jsonl", "b.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=r"has files of several kinds \(.csv, .jsonl\)"):
        fields(tmp_path)


def test_a_split_that_a_local_source_has_not_is_refused_by_check_and_training(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    splits = {"train": Dataset.from_list(ROWS[:1]), "validation": Dataset.from_list(ROWS[1:])}
    DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    file, saved = str(tmp_path / "rows.jsonl"), str(tmp_path / "saved")
    assert no_such_split(file, "train[:10]").endswith(
        "is a file, which has no split 'train[:10]': name a file that holds the rows of that split"
    )
    assert "(did you mean validation? known: train, validation)" in no_such_split(saved, "valdation")
    assert [no_such_split(*each) for each in ((file, "train"), (saved, "validation"), ("a/hub", "x"))] == [""] * 3
    made = component("data_format", {"use": "prompts", "source": file, "split": "test"})
    with pytest.raises(DataError, match="is a file, which has no split 'test'"):
        made.load(Base(""), 0)
    assert list(made.missing()) == ["split"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "prompt|chosen\np|a\n", "a.csv:1: has one column, 'prompt|chosen': separate its parts with commas"),
        ("a.tsv", "prompt,chosen\np,a\n", "a.tsv:1: has one column, 'prompt,chosen': separate its parts with tabs"),
        ("a.json", '{"data": [{"prompt": "p"}]}', "a.json:1: is an object whose 'data' is a list of rows: write that"),
        ("a.json", '{\n "rows": [\n  {"prompt": "p"}\n ]\n}', "a.json:1: is an object whose 'rows' is a list of rows"),
        ("a.json", '{\n "prompt": "p",\n}', "a.json:3: is not JSON: Expecting property name"),
    ],
)
def test_a_file_of_another_shape_is_refused_with_the_cure(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        fields(tmp_path / name)


def test_a_row_over_several_lines_and_a_comma_within_a_header_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0], indent=1))
    (tmp_path / "a.csv").write_text('"prompt, asked"\np\n')
    assert fields(tmp_path / "a.json") == ROWS[:1]
    assert fields(tmp_path / "a.csv") == [{"prompt, asked": "p"}]
