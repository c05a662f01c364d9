"""Columns that a format does not read, and where a row comes from: kept from the file to the trainer's batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_plugins import Base, Data, DataError, Group
from rlhf_plugins.contract.rows import Origin
from rlhf_plugins.data.batches.groups import batch_columns, batch_prompts, prompt_dataset
from rlhf_plugins.data.batches.ranked import part
from rlhf_plugins.data.convert import pairs, preference_rows, ranking_rows, rating_rows
from rlhf_plugins.data.fields import origin
from rlhf_plugins.data.write import write_rows
from rlhf_plugins.recipe.assemble import component

TEXTS = {"prompt": "p", "response_a": "x", "response_b": "y"}
MORE = {"user": 7, "tags": ["a", {"b": None}]}
ROWS: dict[str, list[dict[str, Any]]] = {
    "preference": [{"prompt": "p", "chosen": "x", "rejected": "y", "margin": 1}],
    "comparisons": [{**TEXTS, "label": "a", "annotator": "ann"}, {**TEXTS, "label": "a", "annotator": "bob"}],
    "ratings": [{"prompt": "p", "response": "x", "score": 1}, {"prompt": "p", "response": "y", "score": 2}],
    "rankings": [{"prompt": "p", "responses": ["x", "y"], "ranking": [0, 1]}],
}


def load(folder: Path, name: str, rows: list[dict[str, Any]], **options: Any) -> Data:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, [*rows, *({**r, "prompt": "q"} for r in rows)])))
    spec = {"use": name, "source": str(folder / "rows.jsonl"), "test_fraction": 0.5, **options}
    data: Data = component("data_format", spec).load(Base("none"), 0)
    return data


@pytest.mark.parametrize("name", ROWS)
def test_every_format_keeps_them(tmp_path: Path, name: str) -> None:
    data = load(tmp_path, name, [{**row, **MORE, "row": i} for i, row in enumerate(ROWS[name])])
    groups = {group.prompt: group for group in (*data.train, *data.test)}
    file, several = str(tmp_path / "rows.jsonl"), len(ROWS[name]) == 2
    own = MORE if several else {**MORE, "row": 0}  # rows that became one group keep what they agree in
    assert groups["p"].columns == own
    assert groups["p"].origin == Origin(file, 1, (f"{file}:1", f"{file}:2") if several else ())
    assert groups["q"].origin is not None
    assert str(groups["q"].origin) == f"{file}:{3 if several else 2}"
    assert [(g.prompt, g.responses, g.columns) for g in data.prompts["train"]] == [(data.train[0].prompt, (), own)]


def test_some_of_them_can_be_kept(tmp_path: Path) -> None:
    row = {**ROWS["preference"][0], **MORE}
    assert load(tmp_path, "preference", [row], columns={"keep": ["user"]}).train[0].columns == {"user": 7}
    assert load(tmp_path, "preference", [row], columns={"keep": []}).train[0].columns == {}
    with pytest.raises(DataError, match=r"rows.jsonl:1: lacks the column 'users' \(did you mean user"):
        load(tmp_path, "preference", [row], columns={"keep": ["users"]})


def test_a_prompt_has_the_columns_in_which_its_rows_agree(tmp_path: Path) -> None:
    rows = [{**ROWS["preference"][0], "chosen": text, "answer": 3, "row": text} for text in "ab"]
    data = load(tmp_path, "preference", rows)
    assert data.prompts["train"][0].columns == {"answer": 3}
    (group,) = load(tmp_path, "preference", rows, group_prompts=True).train
    assert (group.columns, group.origin and len(group.origin.parents)) == ({"answer": 3}, 2)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("a/b.jsonl:12", Origin("a/b.jsonl", 12)),
        ("a[1].parquet[0]", Origin("a[1].parquet", 1)),
        ("somewhere", Origin("somewhere")),
    ],
)
def test_the_origin_of_a_place(where: str, expected: Origin) -> None:
    assert origin(where) == expected


def test_what_is_made_of_a_group_keeps_them() -> None:
    group = Group("p", ("x", "y", "z"), (0, 1, 2), columns=MORE, origin=Origin("f", 1))
    for made in (part(group, [0, 2]), *pairs([group]), replace(group, weight=2.0)):
        assert (made.columns, made.origin) == (MORE, Origin("f", 1))


def test_a_batch_has_a_value_for_each_row() -> None:
    groups = [Group("p", columns=MORE), Group("q", columns={"user": "x", "answer": 1.5})]
    columns = batch_columns(list(prompt_dataset(groups)))
    assert columns == {"user": [7, "x"], "tags": [MORE["tags"], None], "answer": [None, 1.5]}
    assert batch_columns(list(prompt_dataset([Group("p")]))) == {}


def test_calls_of_tools_reach_a_batch_as_they_are() -> None:
    calls = [[{"type": "function", "function": {"name": "f", "arguments": {"x": x}}}] for x in (1, "s", 1.5, [2])]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"x": {"default": 3}}}}]
    said = {"role": "assistant", "content": ""}
    asked = [[{"role": "user", "content": "q", "tools": tools}, {**said, "tool_calls": call}] for call in calls]
    rows = list(prompt_dataset(map(Group, asked)))
    assert [json.dumps(prompt) for prompt in batch_prompts(rows)] == [*map(json.dumps, asked)]


def test_arrays_reach_a_batch_as_lists() -> None:
    group = Group("p", columns={"vector": np.array([0.5, 1.5]), "id": np.int64(3), "day": date(2024, 5, 1)})
    found = batch_columns(list(prompt_dataset([group])))
    assert found == {"vector": [[0.5, 1.5]], "id": [3], "day": ["2024-05-01"]}


def test_converted_rows_with_dates_are_written(tmp_path: Path) -> None:
    group = Group("p", ("x", "y"), (0, 1), columns={"day": date(2024, 5, 1)})
    write_rows(tmp_path / "rows.jsonl", preference_rows([group]))
    assert json.loads((tmp_path / "rows.jsonl").read_text())["day"] == "2024-05-01"


@pytest.mark.parametrize("written", [preference_rows, rating_rows, ranking_rows])
def test_converted_rows_keep_them_after_their_own_columns(written: Callable[..., list[dict[str, Any]]]) -> None:
    more = {**MORE, "prompt": "other", "weight": 9.0}
    group = Group("p", ("x", "y"), (0, 1), weight=0.5, ratings={"score": (2.0, 1.0)}, columns=more)
    row = written([group])[0]
    assert (row["user"], row["tags"], row["prompt"], row["weight"]) == (7, MORE["tags"], "p", 0.5)
    assert list(row)[-3:] == ["weight", "user", "tags"]
