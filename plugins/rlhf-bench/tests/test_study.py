"""The held-out tasks are those that were written down, and regrets are worked by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import yaml
from rlhf_bench.bundled import find
from rlhf_bench.intervals import resampled
from rlhf_bench.learned import BUNDLED
from rlhf_bench.study import SPLIT, gold, looked_at, regrets
from rlhf_bench.suite import read


@pytest.mark.slow
def test_the_split_divides_the_suite_and_the_history_holds_no_held_out_task() -> None:
    split = yaml.safe_load(SPLIT.read_text())
    suite = read(find(split["suite"]))
    assert sorted([*split["learn"], *split["held_out"]]) == sorted(suite.tasks)
    assert len(split["held_out"]) >= 12
    assert {row["task"] for row in json.loads(BUNDLED.read_text())} == set(split["learn"])


@pytest.mark.slow
def test_the_features_of_the_history_are_those_that_a_selector_is_shown_today() -> None:
    suite, rows = read(find("selection")), json.loads(BUNDLED.read_text())
    seen = {task: asdict(looked_at(suite, task)) for task in {row["task"] for row in rows}}
    for row in rows:
        assert {name: value for name, value in seen[row["task"]].items() if value is not None} == row["features"]


@pytest.mark.slow
def test_flips_are_seen_as_circles() -> None:
    suite = read(find("selection"))
    clean, flipped = (looked_at(suite, task).circles for task in ("learn_clean", "learn_flips_40"))
    assert clean == 0  # one impression of each response orders all of its pairs
    assert flipped is not None
    assert flipped > 0.1


def test_regret_is_the_distance_from_the_best_of_each_task() -> None:
    row = {"task": "t", "algorithm": "dpo", "scores": [1.0, 3.0]}
    scores = {**gold([row, {**row, "algorithm": "ipo", "scores": [4.0, 2.0]}]), "u": {"dpo": 1.0, "ipo": 0.5}}
    assert regrets(scores, {"t": "dpo", "u": "dpo"}).tolist() == [1.0, 0.0]
    found = resampled(np.full(12, 0.25))
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
