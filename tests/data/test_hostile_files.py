"""Files that are no rows: pipes, devices, and one that unpacks to far more than it is."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from rlhf_plugins.data import rows
from rlhf_plugins.errors import DataError


def test_a_pipe_or_a_device_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("/dev/zero")
    for name in ("a.jsonl", "b.jsonl"):
        with pytest.raises(DataError, match=f"{name}: is a pipe or a device; name a file"):
            list(rows.read_rows(str(tmp_path / name)))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        for _ in range(40):
            file.write(b" " * 2**20)
    with pytest.raises(DataError, match=r"a.jsonl.gz: unpacks to over 200 times its size"):
        list(rows.read_rows(str(tmp_path / "a.jsonl.gz")))


def test_rows_that_pack_well_are_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"prompt": "p" * 1000}) + "\n" for _ in range(5000))
    assert len(list(rows.read_rows(str(tmp_path / "a.jsonl.gz")))) == 5000


def test_a_file_of_a_size_that_no_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.truncate(rows.MOST + 1)  # a hole, which takes no place
    with pytest.raises(DataError, match=r"a.jsonl: is over 8 GiB; split it"):
        list(rows.read_rows(str(tmp_path / "a.jsonl")))
