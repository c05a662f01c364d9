"""Data formats as components: a file on disk, and the sandbox with its own policy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from rlhf_plugins.components.data_format import (
    Comparisons,
    Mix,
    Preference,
    Prompts,
    Rankings,
    Ratings,
    StageData,
    StageOfRun,
    Supervised,
    register_data_format,
)
from rlhf_plugins.components.data_format_sandbox import Sandbox
from rlhf_plugins.contract.rows import Comparison, Data
from rlhf_plugins.contract.run import Base
from rlhf_plugins.errors import DataError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.sandbox import POLICY, Annotator, gold

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
BASE = Base(str(POLICY))
SMALL = Sandbox(prompts=8, test_prompts=4, responses=3, pairs=2, annotator=Annotator(tie_margin=0.5))


@pytest.fixture(scope="module")
def sandbox() -> Data:
    return SMALL.load(BASE, seed=0)


def test_preference_reads_a_file_and_its_test_source(tmp_path: Path) -> None:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 2}))
    test.write_text(json.dumps({"prompt": "r", "chosen": "a", "rejected": "b"}))
    data = Preference(str(train), test_source=str(test)).load(BASE, seed=0)
    assert [(g.prompt, g.responses, g.ranks, g.margin) for g in data.train] == [("q", ("a", "b"), (0, 1), 2.0)]
    assert {split: [g.prompt for g in groups] for split, groups in data.prompts.items()} == {
        "train": ["q"],
        "test": ["r"],
    }
    assert data.gold is None


def test_preference_names_the_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        Preference(str(tmp_path / "none.jsonl")).load(BASE, seed=0)


def test_the_sandbox_gives_prompts_of_three_kinds(sandbox: Data) -> None:
    asked = {split: {g.prompt for g in groups} for split, groups in sandbox.prompts.items()}
    assert {split: len(prompts) for split, prompts in asked.items()} == {
        "train": 8,
        "test": 4,
        "out_of_distribution": 4,
    }
    assert {g.prompt for g in sandbox.train} <= asked["train"]
    assert {g.prompt for g in sandbox.test} <= asked["test"]


def test_the_sandbox_leaves_out_ties_and_counts_them(sandbox: Data) -> None:
    groups = [*sandbox.train, *sandbox.test, *sandbox.out_of_distribution]
    assert sandbox.dropped["tie"] > 0
    assert len(groups) + sandbox.dropped["tie"] <= 16 * 2  # 2 pairs of each prompt are judged
    assert all(sorted(g.ranks or ()) == [0, 1] for g in groups)


def test_the_sandbox_knows_the_truth(sandbox: Data) -> None:
    group = sandbox.train[0]
    assert sandbox.gold is not None
    assert group.gold is not None
    worths = [sandbox.gold(str(group.prompt), str(response)) for response in group.responses]
    assert [worth["total"] for worth in worths] == pytest.approx(list(group.gold))
    assert worths[0]["total"] == gold(str(group.prompt), str(group.responses[0])).total
    assert set(worths[0]) == {"helpful", "harmless", "honest", "concise", "total"}


def test_the_sandbox_follows_its_seed(sandbox: Data) -> None:
    assert SMALL.load(BASE, seed=0).train == sandbox.train
    assert SMALL.load(BASE, seed=1).train != sandbox.train


def test_labels_may_be_numbers() -> None:
    made = component("data_format", {"use": "comparisons", "source": "x.jsonl", "labels": {0: "a", 1: "b"}})
    assert made.labels == {"0": "a", "1": "b"}


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Preference, {}),
        (Preference, {"source": "x.jsonl", "test_fraction": 0}),
        (Preference, {"source": "x.jsonl", "test_fraction": 1}),
        (Preference, {"source": ""}),
        (Preference, {"source": "x.jsonl", "hold_out": "row"}),
        (Preference, {"source": "x.jsonl", "max_responses": 1}),
        (Preference, {"source": "x.jsonl", "columns": {"chosen": ""}}),
        (Comparisons, {"source": "x.jsonl", "labels": {}}),
        (Comparisons, {"source": "x.jsonl", "labels": {"1": "c"}}),
        (Ratings, {"source": "x.jsonl", "gap": -1}),
        (Ratings, {"source": "x.jsonl", "dimensions": []}),
        (Ratings, {"source": "x.jsonl", "dimensions": {"a": "a"}, "by": ["b"]}),
        (Rankings, {"source": "x.jsonl", "columns": {"prompt": None}}),
        (Sandbox, {"responses": 1}),
        (Sandbox, {"prompts": 0}),
        (Sandbox, {"annotator": {"temperature": "warm"}}),
    ],
)
def test_an_option_out_of_range_is_refused(cls: type, options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(cls).validate_python(options)


def test_names_of_the_recipe() -> None:
    assert register_data_format() == {
        "preference": Preference,
        "comparisons": Comparisons,
        "ratings": Ratings,
        "rankings": Rankings,
        "supervised": Supervised,
        "prompts": Prompts,
        "mix": Mix,
        "stage": StageData,
        "stage_of_run": StageOfRun,
    }


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def pair(prompt: str, a: str, b: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response_a": a, "response_b": b, **more}


def test_pairs_are_put_together_by_prompt_in_each_split(tmp_path: Path) -> None:
    rows = [pair(p, a, b, label="a") for p in "pqrs" for a, b in ("xy", "yz")]
    data = Comparisons(write(tmp_path / "a.jsonl", *rows), group_prompts=True).load(BASE, seed=0)
    assert (len(data.train), len(data.test)) == (2, 2)
    assert {(g.responses, g.compared) for g in (*data.train, *data.test)} == {
        (("x", "y", "z"), (Comparison(0, 1), Comparison(1, 2)))
    }


def test_ratings_are_compared_as_the_options_say(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": r, "a": i, "b": 3 - i} for i, r in enumerate("xyz")]
    options: dict[str, Any] = {"dimensions": ["a", "b"], "gap": 2, "by": ["a"], "margins": True}
    (group,) = Ratings(write(tmp_path / "a.jsonl", *rows), **options).load(BASE, seed=0).train
    assert group.ratings == {"a": (0.0, 1.0, 2.0), "b": (3.0, 2.0, 1.0)}
    assert [(c.better, c.worse, c.tied, c.margin) for c in group.comparisons] == [
        (0, 1, True, 0.0),
        (2, 0, False, 2.0),
        (1, 2, True, 0.0),
    ]


@pytest.mark.parametrize(
    ("cls", "row"),
    [
        (Comparisons, pair("p", "x", "y", label="tie")),
        (Ratings, {"prompt": "p", "response": "x", "score": 3}),
        (Rankings, {"prompt": "p", "responses": ["x", "y"], "ranks": [1, 1]}),
    ],
)
def test_data_of_one_class_is_refused(cls: type, row: dict[str, Any], tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", row, {**row, "prompt": "q"})
    with pytest.raises(DataError, match=r"a\.jsonl: no response is preferred to another and no two ratings differ"):
        cls(source).load(BASE, seed=0)


@pytest.mark.parametrize("cls", [Comparisons, Ratings, Rankings])
def test_a_file_that_is_not_utf8_is_refused(cls: type, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "p\xff"}')
    with pytest.raises(DataError, match=r"a\.jsonl:1: is not UTF-8"):
        cls(str(tmp_path / "a.jsonl")).load(BASE, seed=0)


def test_the_same_pair_judged_both_ways_is_left_out(tmp_path: Path) -> None:
    rows = [pair("p", "x", "y", label="a"), pair("p", "y", "x", label="a"), pair("q", "x", "y", label="b")]
    data = Comparisons(write(tmp_path / "a.jsonl", *rows, pair("q", "y", "x", label="a"))).load(BASE, seed=0)
    assert [g.prompt for g in data.train] == ["q"]
    assert data.dropped == {"contradicted by another row": 2, "repeated row": 1}


REVIEWS = {name: f"reviews.{name}-rating" for name in ("correctness", "selection", "overall")}
# groups, comparisons, ties, and rows left out, counted apart from this code where the data can tell
REAL: list[tuple[type, str, dict[str, Any], tuple[int, int, int, int]]] = [
    (Comparisons, "arguments_crowd", {"hold_out": "topic"}, (9934, 9934, 1497, 1933)),
    (Comparisons, "instructions_three_annotators", {}, (837, 837, 77, 162)),
    (Comparisons, "instructions_preference_strength", {}, (944, 944, 269, 52)),
    (Rankings, "answers_four_way", {}, (500, 3000, 384, 0)),
    (Ratings, "summaries_rated", {"dimensions": REVIEWS, "gap": 10.0}, (100, 300, 40, 0)),
    (Preference, "arguments_pairs", {"group_prompts": True}, (23, 8142, 0, 58)),
]


@pytest.mark.parametrize(("cls", "name", "options", "counts"), REAL, ids=lambda value: str(value)[:30])
def test_judgements_of_people(cls: type, name: str, options: dict[str, Any], counts: tuple[int, ...]) -> None:
    path = SHARED_DATA / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{name} is not here")
    data = cls(str(path), **options).load(BASE, seed=0)
    groups = [*data.train, *data.test]
    said = [c for group in groups for c in group.comparisons]
    assert (len(groups), len(said), sum(c.tied for c in said), sum(data.dropped.values())) == counts
    assert not {g.prompt for g in data.train} & {g.prompt for g in data.test}


def test_arguments_stand_once_in_blocks() -> None:
    path = SHARED_DATA / "arguments_pairs.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    data = Preference(str(path), group_prompts=True, max_responses=8).load(BASE, seed=0)
    groups = [*data.train, *data.test]
    assert max(len(g.responses) for g in groups) == 8
    assert sum(len(g.comparisons) for g in groups) == 8142
    assert sum(len(g.responses) for g in groups) < 8142  # half of what pairs apart would compute


SLOPPY = Sandbox(prompts=6, test_prompts=3, responses=3, writer="sloppy")


def test_all_responses_of_a_prompt_are_ranked_and_rated_where_no_pairs_are_asked_for() -> None:
    data = replace(SLOPPY, pairs=None).load(BASE, 0)
    assert (len(data.train), len(data.test), len(data.out_of_distribution)) == (6, 3, 3)
    assert all(len(g.responses) == len(g.ranks or ()) == 3 for g in data.train)
    assert all(set(g.ratings) == {"helpful", "harmless", "honest", "concise"} for g in data.train)


def test_a_temperature_is_of_what_the_base_writes() -> None:
    own = replace(SLOPPY, writer="base")
    hot = replace(own, temperature=1.6)
    first, second = own.load(BASE, 0), hot.load(BASE, 0)
    assert [g.prompt for g in first.train] == [g.prompt for g in second.train]
    assert {r for g in first.train for r in g.responses} != {r for g in second.train for r in g.responses}
    with pytest.raises(ValueError, match="temperature: the sloppy writer has none"):
        replace(SLOPPY, temperature=1.6)


def test_tied_pairs_are_kept_where_they_are_asked_for() -> None:
    shrugging = replace(SLOPPY, prompts=40, annotator=Annotator(tie_margin=5.0))
    kept, left = (replace(shrugging, ties=ties).load(BASE, 0) for ties in (True, False))
    ties = sum(g.ranks == (0, 0) for split in (kept.train, kept.test, kept.out_of_distribution) for g in split)
    assert ties == left.dropped["tie"] > 0
    assert [g for g in kept.train if g.ranks != (0, 0)] == list(left.train)
