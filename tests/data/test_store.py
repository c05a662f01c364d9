"""Rows that a stage hands on: written whole, read back equal, and trained on by a later run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_plugins import Base, Comparison, Data, DataError, Group, load_data
from rlhf_plugins.contract.rows import Origin
from rlhf_plugins.data.file_names import STAGE_ROWS
from rlhf_plugins.data.store import save_data
from rlhf_plugins.recipe.assemble import component

CHAT = [{"role": "user", "content": [{"type": "text", "text": "hä?"}]}]
FULL = Group(
    "p",
    ("x", "y"),
    (0, None),
    margin=0.5,
    gold=(1.0, 0.25),
    weight=2.0,
    compared=(Comparison(1, 0, margin=1.5, weight=0.5, probability=0.75, annotator="ann"), Comparison(0, 1, tied=True)),
    ratings={"kind": (1.0, None)},
    topic="t",
    difficulty=0.1,
    columns={"user": 7, "tags": ["a", {"b": None}]},
    origin=Origin("f", 3, ("f:1", "f:2")),
)
DATA = Data(
    (FULL, Group(CHAT, (CHAT,))),
    (Group("q", ("z",), label=True), Group("r")),
    {"train": (Group("p", columns={"answer": 4}),), "test": ()},
    {"tie": 2},
    out_of_distribution=(FULL,),
)


def test_data_is_read_back_as_it_was(tmp_path: Path) -> None:
    save_data(DATA, tmp_path / STAGE_ROWS)
    found = load_data(tmp_path)
    assert found == load_data(tmp_path / STAGE_ROWS)
    assert (found.train, found.test, found.out_of_distribution) == (DATA.train, DATA.test, DATA.out_of_distribution)
    assert (found.prompts, found.dropped) == ({"train": DATA.prompts["train"]}, {"tie": 2})
    assert [path.name for path in tmp_path.iterdir()] == [STAGE_ROWS]


def test_a_line_holds_only_what_was_given(tmp_path: Path) -> None:
    columns = {"on": Path("a"), "vector": np.array([1.5]), "id": np.int64(3)}
    save_data(Data((Group("p", ("x",), columns=columns),)), tmp_path / STAGE_ROWS)
    lines = [json.loads(line) for line in (tmp_path / STAGE_ROWS).read_text().splitlines()]
    plain = {"on": "a", "vector": [1.5], "id": 3}
    assert lines == [{"dropped": {}}, {"in": "train", "prompt": "p", "responses": ["x"], "columns": plain}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"in": "trian", "prompt": "p"}, r"data.jsonl:1: 'in' is 'trian' \(did you mean train"),
        (
            {"in": "train", "prompt": "p", "colums": {}},
            r"data.jsonl:1: a group has no field 'colums' \(did you mean colu",
        ),
        ({"in": "train", "prompt": 3}, r"data.jsonl:1: prompt"),
        (
            {"in": "train", "prompt": "p", "compared": [{"better": 0}]},
            r"data.jsonl:1: compared.0.worse: Field required",
        ),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: dict[str, Any], message: str) -> None:
    (tmp_path / STAGE_ROWS).write_text(json.dumps(line))
    with pytest.raises(DataError, match=message):
        load_data(tmp_path)


def test_a_later_run_trains_on_what_a_stage_left(tmp_path: Path) -> None:
    for place in ("01-critique", "02-loop/r2.pairs"):
        (tmp_path / place).mkdir(parents=True)
        save_data(DATA, tmp_path / place / STAGE_ROWS)
    for stage in ("critique", "loop/r2.pairs"):
        made = component("data_format", {"use": "stage_of_run", "run": str(tmp_path), "stage": stage})
        assert made.load(Base("none"), 0).train == DATA.train
        assert made.known_columns() >= {"probability", "annotator"}
    missing = component("data_format", {"use": "stage_of_run", "run": str(tmp_path), "stage": "critic"})
    with pytest.raises(DataError, match=r"no stage 'critic' of this run left data \(did you mean critique"):
        missing.load(Base("none"), 0)
    assert missing.known_columns() is None


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no data of a stage"):
        load_data(tmp_path)
