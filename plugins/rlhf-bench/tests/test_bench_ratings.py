"""Ratings of people reach the line of the policy that they rated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rlhf_bench.columns import of_lines, quality
from rlhf_bench.measures import measure
from rlhf_bench.ratings import read
from rlhf_bench.suite import Suite
from rlhf_bench.table import MEANS, OF_ALL, lines

from rlhf_plugins import RunError

SUITE = Suite("s", "", (1, 2), {"flops": 1.0}, "base", {"t": ""}, {"dpo": ""}, {}, ())
ROW = {
    "prompt": "p",
    "responses": [{"text": "a", "kind": 6.0, "clear": 4.0}, {"text": "b", "kind": 1.0}, {"text": "c", "kind": 7.0}],
    "origins": [{"policy": "runs/x#dpo"}, {"policy": "runs/x#dpo", "negative": "hot"}, {}],
}


def test_the_dimensions_of_a_policys_response_are_averaged(tmp_path: Path) -> None:
    responses = [{**ROW["responses"][0], "text": "a\u2028b"}, *ROW["responses"][1:]]  # a line of JSON may hold it
    text = json.dumps({**ROW, "responses": responses}, ensure_ascii=False)
    (tmp_path / "train.jsonl").write_text(text + "\n", encoding="utf-8")
    assert read(tmp_path) == {("x", "dpo"): {"p": 5.0}}


def test_a_folder_without_ratings(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no rated response of a policy"):
        read(tmp_path)
    for text in ('{"prompt": "p", "chosen": "a", "rejected": "b"}\n', "[" * 9000):
        (tmp_path / "train.jsonl").write_text(text)
        with pytest.raises(RunError, match="train.jsonl:1: no row of ratings; make the study with `--kind rating`"):
            read(tmp_path)


def test_ratings_of_other_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="none of the 1 rated policies is of a run of s: x#dpo"):
        measure(SUITE, tmp_path, {("x", "dpo"): {"p": 5.0}})


def test_a_rated_algorithm_has_a_column_of_its_mean_over_prompts() -> None:
    same = {
        "task": "t",
        "algorithm": "dpo",
        "status": "finished",
        "scores": [1.0],
        "base": [0.0],
        **dict.fromkeys((*MEANS, *OF_ALL)),
    }
    rated = {1: {"p": 5.0, "q": 3.0}, 2: {"p": 6.0}}
    rows = [{**same, "seed": seed, "ratings": given, "dimensions": {}, "tasks": {}} for seed, given in rated.items()]
    found = lines(SUITE, rows)
    table = of_lines("", "", list(quality(SUITE, found)), found)
    cell = table.rows[1][list(table.header).index("human rating")]
    assert cell == "4.25 [-11.63, 20.13]"  # p has 5.5 over its two runs; 12.706 standard errors of 1.25
