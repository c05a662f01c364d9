"""The held-out tasks are those that were written down, and regrets are worked by hand."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from rlhf_bench.bundled import SPLIT, find
from rlhf_bench.intervals import resampled
from rlhf_bench.learned import BUNDLED
from rlhf_bench.study import ALWAYS, Tried, compared, failures, gold, kept, looked_at, main, outcome, regrets, text
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
    assert found.p == pytest.approx(1 / 4001)  # no mean of 4,000 resamples is below 0


def test_what_is_kept_of_runs_is_the_mean_of_each_whole_task_and_its_best() -> None:
    suite = read(find("selection"))
    row = {"task": "held_tiny", "scores": [1.0, 2.0], "hardware": {"cores": 2, "cpu": "x", "memory": 1}}
    rows = [{**row, "algorithm": name} for name in ("dpo", "ipo")] + [{**row, "algorithm": "ppo", "scores": [2, 2.5]}]
    found = kept(suite, [*rows, {**row, "task": "held_biased", "algorithm": "dpo"}])
    assert found["scores"] == {"held_tiny": {"dpo": 1.5, "ipo": 1.5, "ppo": 2.25}}
    assert found["best"] == {"held_tiny": "ppo"}
    assert found["hardware"] == {"cores": 2, "cpu": "x"}


def test_where_selectors_fail_is_said_and_differences_are_corrected_for_their_number() -> None:
    lost = {"rules": (0.2, 4), "learned": (0.1, 6), ALWAYS: (0.3, 2), "always ipo": (0.1, 6)}
    tried = {name: Tried(np.full(12, regret), hits, 12) for name, (regret, hits) in lost.items()}
    said = list(failures(tried))
    both = "`rules` take the best algorithm on 4 of 12 held-out tasks, `learned` on 6"
    assert said[0] == f"{both}, and `always ipo`, which looks at nothing, on 6."
    assert said[1] == "The order `learned`, `rules`, `always dpo`, lowest regret first, holds in means."
    assert "`learned` less `always ipo`" not in said[2]
    _, p = compared(tried)["`learned` less `rules`"]
    assert p == pytest.approx(4 / 4001)  # four comparisons; the last of them is 1


def test_the_regret_of_several_seeds_is_the_mean_of_each_task() -> None:
    found = {"scores": {"t": {"dpo": 2.0, "ipo": 1.0}, "u": {"dpo": 1.0, "ipo": 4.0}}, "best": {"t": "dpo", "u": "ipo"}}
    tried = outcome(found, [{"t": "dpo", "u": "dpo"}, {"t": "ipo", "u": "ipo"}])
    assert (tried.regrets.tolist(), tried.hits, tried.choices) == ([0.5, 1.5], 2, 4)


def test_the_page_counts_the_tasks_of_the_history_and_not_those_on_which_every_algorithm_ran() -> None:
    """`learned` learns from what finished, also of a task on which another algorithm did not."""
    suite = read(find("selection"))
    scores = {"dpo": 2.0, "ipo": 1.0, "ppo": 1.5}
    found = {"scores": {"held_tiny": scores, "learn_clean": scores}, "best": {"held_tiny": "dpo"}}
    chosen = {name: {"held_tiny": "dpo"} for name in ("rules", "learned", "always dpo", "always ipo", "always ppo")}
    page = "\n".join(text(suite, found | {"hardware": {"cores": 2, "cpu": "x"}}, chosen, [], 8, {}))
    assert "`learned` was fitted on 8 other tasks of the suite" in page
    assert "## What the bandit takes" not in page


@pytest.mark.slow
def test_the_page_is_written_again_from_the_scores_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = Path(__file__).parents[3] / "docs" / "benchmarks"
    for name in ("selection.json", "bandits.json"):
        (tmp_path / name).write_bytes((docs / name).read_bytes())
    monkeypatch.setattr(sys, "argv", ["study", str(tmp_path / "selection.md")])
    main()
    assert (tmp_path / "selection.md").read_text() == (docs / "selection.md").read_text()
