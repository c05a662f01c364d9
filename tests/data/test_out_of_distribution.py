"""Rows unlike those of training: a file of their own or named topics, measured apart and trained on nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.components.data_format import Preference
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.measures.audit import audit
from rlhf_plugins.errors import DataError, PluginError
from rlhf_plugins.recipe.assemble import component

Row = dict[str, Any]


def row(prompt: str, topic: str = "") -> Row:
    return {"prompt": prompt, "chosen": "good", "rejected": "bad", "topic": topic}


def read(folder: Path, rows: list[Row], strange: list[Row] | None = None, **options: Any) -> Data:
    for name, given in (("rows.jsonl", rows), ("strange.jsonl", strange)):
        if given is not None:
            (folder / name).write_text("\n".join(map(json.dumps, given)))
    more = {} if strange is None else {"out_of_distribution": str(folder / "strange.jsonl")}
    return Preference(str(folder / "rows.jsonl"), **more, **options).load(Base(""), 0)


def asked(groups: tuple[Group, ...]) -> set[str]:
    return {str(group.prompt) for group in groups}


TOPICS = [row(f"{topic} {i}", topic) for topic in ("law", "art", "sea") for i in range(4)]


def test_named_topics_are_apart_and_prompts_of_the_others_are_held_out(tmp_path: Path) -> None:
    data = read(tmp_path, TOPICS, hold_out={"topic": ["law"]}, test_fraction=0.25)
    assert (
        asked(data.out_of_distribution) == asked(data.prompts["out_of_distribution"]) == {f"law {i}" for i in range(4)}
    )
    assert (len(data.train), len(data.test)) == (6, 2)
    assert {group.topic for group in (*data.train, *data.test)} == {"art", "sea"}
    assert audit(data).groups == {"train": 6, "test": 2, "out of distribution": 4}
    assert data.dropped == {}


def test_a_file_of_its_own_takes_its_prompts_out_of_the_others(tmp_path: Path) -> None:
    data = read(tmp_path, [row("a"), row("b"), row("c"), row("d")], [row("a"), row("z")])
    assert asked(data.out_of_distribution) == {"a", "z"}
    assert asked((*data.train, *data.test)) == {"b", "c", "d"}
    assert data.dropped == {"prompt is out of distribution too": 1}
    assert isinstance(data.dropped, Dropped)
    assert data.dropped.places == {"prompt is out of distribution too": [f"{tmp_path}/rows.jsonl:1"]}
    assert (audit(data).rows, audit(data).places) == (6, data.dropped.places)


def test_both_join_and_a_test_source_is_kept_clear_too(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, (row("z"), row("y")))))
    source = {"test_source": str(tmp_path / "test.jsonl"), "hold_out": {"topic": ["sea"]}}
    data = read(tmp_path, TOPICS, [row("z")], **source)
    assert asked(data.out_of_distribution) == {"z", *(f"sea {i}" for i in range(4))}
    assert asked(data.test) == {"y"}


def test_a_named_topic_of_the_test_source_is_out_of_distribution(tmp_path: Path) -> None:
    rows = [row("y", "art"), row("z", "sea"), row("sea 0", "sea")]  # the last is a training row too
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = read(tmp_path, TOPICS, test_source=str(tmp_path / "test.jsonl"), hold_out={"topic": ["sea"]})
    assert asked(data.out_of_distribution) == {"z", *(f"sea {i}" for i in range(4))}
    assert (len(data.out_of_distribution), asked(data.test)) == (5, {"y"})
    assert {group.topic for group in data.train} == {"art", "law"}


def test_what_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row has the topic 'lawn' .did you mean law"):
        read(tmp_path, TOPICS, hold_out={"topic": ["lawn"]})
    words = {"use": "preference", "source": "x.jsonl", "hold_out": {"prompt": ["a"]}}
    with pytest.raises(PluginError, match="hold_out"):
        component("data_format", words)
