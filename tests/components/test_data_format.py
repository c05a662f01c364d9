"""Data formats as components: a file on disk, and the sandbox with its own policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from rlhf_plugins.components.data_format import Preference, Sandbox, register_data_format
from rlhf_plugins.errors import DataError
from rlhf_plugins.interfaces import Base, PreferenceData
from rlhf_plugins.sandbox import POLICY, Annotator, gold

BASE = Base(str(POLICY))
SMALL = Sandbox(prompts=8, test_prompts=4, responses=3, pairs=2, annotator=Annotator(tie_margin=0.5))


@pytest.fixture(scope="module")
def sandbox() -> PreferenceData:
    return SMALL.load(BASE, seed=0)


def test_preference_reads_a_file_and_its_test_source(tmp_path: Path) -> None:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 2}))
    test.write_text(json.dumps({"prompt": "r", "chosen": "a", "rejected": "b"}))
    data = Preference(str(train), test_source=str(test)).load(BASE, seed=0)
    assert [(g.prompt, g.responses, g.ranks, g.margin) for g in data.train] == [("q", ("a", "b"), (0, 1), 2.0)]
    assert data.prompts == {"train": ("q",), "test": ("r",)}
    assert data.gold is None


def test_preference_names_the_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        Preference(str(tmp_path / "none.jsonl")).load(BASE, seed=0)


def test_the_sandbox_gives_prompts_of_three_kinds(sandbox: PreferenceData) -> None:
    counts = {split: len(set(prompts)) for split, prompts in sandbox.prompts.items()}
    assert counts == {"train": 8, "test": 4, "out_of_distribution": 4}
    assert {g.prompt for g in sandbox.train} <= set(sandbox.prompts["train"])
    assert {g.prompt for g in sandbox.test} <= set(sandbox.prompts["test"])


def test_the_sandbox_leaves_out_ties_and_counts_them(sandbox: PreferenceData) -> None:
    groups = [*sandbox.train, *sandbox.test]
    assert sandbox.dropped["tie"] > 0
    assert len(groups) + sandbox.dropped["tie"] <= 12 * 2  # 2 pairs of each prompt are judged
    assert all(sorted(g.ranks or ()) == [0, 1] for g in groups)


def test_the_sandbox_knows_the_truth(sandbox: PreferenceData) -> None:
    group = sandbox.train[0]
    assert sandbox.gold is not None
    assert group.gold is not None
    worths = [sandbox.gold(str(group.prompt), str(response)) for response in group.responses]
    assert [worth["total"] for worth in worths] == pytest.approx(list(group.gold))
    assert worths[0]["total"] == gold(str(group.prompt), str(group.responses[0])).total
    assert set(worths[0]) == {"helpful", "harmless", "honest", "concise", "total"}


def test_the_sandbox_follows_its_seed(sandbox: PreferenceData) -> None:
    assert SMALL.load(BASE, seed=0).train == sandbox.train
    assert SMALL.load(BASE, seed=1).train != sandbox.train


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Preference, {}),
        (Preference, {"source": "x.jsonl", "test_fraction": 0}),
        (Preference, {"source": "x.jsonl", "test_fraction": 1}),
        (Preference, {"source": ""}),
        (Sandbox, {"responses": 1}),
        (Sandbox, {"prompts": 0}),
        (Sandbox, {"annotator": {"temperature": "warm"}}),
    ],
)
def test_an_option_out_of_range_is_refused(cls: type, options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(cls).validate_python(options)


def test_names_of_the_recipe() -> None:
    assert register_data_format() == {"preference": Preference, "sandbox": Sandbox}
