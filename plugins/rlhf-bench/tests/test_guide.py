"""The page of all suites: who is best, what may be equal to it, and means over tasks by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rlhf_bench import guide
from rlhf_bench.guide import below, leading, read, text
from rlhf_bench.properties import of_knobs, properties

from rlhf_plugins import RunError

GOLD = {"dpo": 2.0, "ipo": 1.0, "ppo": 3.0}
MEANS = {"reward_calls": 0, "generated_tokens": 0, "seconds": 10.0, "peak_bytes": 2**30, "converged_seconds": None}


def bench(**changes: Any) -> dict[str, Any]:
    """Two tasks; PPO takes 20 seconds on one and 40 on the other, the others 10."""
    lines, runs = [], []
    for number, task in enumerate(("clean", "flips"), 1):
        for name, gold in GOLD.items():
            own = {"reward_calls": 64, "generated_tokens": 9, "seconds": 20.0 * number} if name == "ppo" else {}
            line = {"task": task, "algorithm": name, "gold": {"mean": gold}, "spread": 0.1, "means": {**MEANS, **own}}
            run = {"task": task, "algorithm": name, "seed": 1, "status": "finished", "scores": [gold], "base": [0.0]}
            lines.append(line)
            runs.append({**run, "prompts": "these", "hardware": {"cores": 2, "cpu": "x"}})
    same = {"suite": "three_ways", "seeds": [1], "budget": {"flops": 1e9}, "algorithms": list(GOLD), "frontiers": []}
    tasks = {"clean": "few errors", "flips": ""}
    return {**same, "tasks": tasks, "lines": lines, "runs": runs, "changes": [], **changes}


def test_the_best_and_what_may_be_equal_to_it_lead() -> None:
    one, two = (1, "these"), (2, "these")
    best = {one: [2.0, 3.0], two: [2.0, 3.0]}
    found = {"a": best, "b": {one: [1.0, 4.0], two: [3.0, 1.0]}, "c": {one: [0.0, 1.0], two: [0.0, 1.0]}}
    assert leading(found) == ["a", "b"]
    assert leading({name: {one: of[one]} for name, of in found.items()}) == ["a"]  # one seed: the mean decides


def test_scores_on_other_prompts_are_not_compared_prompt_by_prompt() -> None:
    """Of the second seed, one algorithm has no score of the second prompt: one seed is left, and the mean decides."""
    run = {"task": "clean", "status": "finished", "base": [0.0, 0.0], "prompts": "both"}
    runs = [{**run, "algorithm": "dpo", "seed": seed, "scores": [2.0, 3.0]} for seed in (1, 2)]
    runs += [{**run, "algorithm": "ppo", "seed": 1, "scores": [3.0, 1.0]}]
    both = {**run, "algorithm": "ppo", "seed": 2, "scores": [3.0, 1.0]}
    for more, expected in ((both, ["dpo", "ppo"]), ({**both, "scores": [3.0], "prompts": "one"}, ["dpo"])):
        assert leading(guide.scores({"runs": [*runs, more]}, "clean")) == expected


def test_a_page_has_a_row_per_task_and_its_command() -> None:
    lines = list(text({"three_ways": bench()}))
    assert "| clean | few errors | - | 2.00 | 1.00 | **3.00** |" in lines
    assert "`rlhf bench three_ways`: seeds 1, 1e+09 flops a run, 2 cores (x)." in lines


def test_a_judge_that_each_seed_has_of_its_own_gives_gains_and_no_scores() -> None:
    judged = bench(baseline="dpo", suite="mine")
    judged["runs"] = [{**run, "judge": "reward model"} for run in judged["runs"]]
    gains = {"dpo": None, "ipo": {"mean": -1.0, "low": -2.0, "high": -0.5}, "ppo": {"mean": 1.0}}
    judged["lines"] = [{**line, "gain": gains[line["algorithm"]]} for line in judged["lines"]]
    lines = list(text({"mine": judged}))
    assert "| task | data | ipo | ppo |" in lines
    assert "| clean | few errors | -1.00 [-2.00, -0.50] | **+1.00** |" in lines
    assert "`rlhf bench mine.yaml`: seeds 1, 1e+09 flops a run, 2 cores (x)." in lines


def test_properties_are_means_over_tasks_beside_what_textbooks_say() -> None:
    rows = {row[0]: row[1:] for row in properties({"three_ways": bench()}).rows}
    assert rows["cost: seconds"][:5] == [
        "30 (20 to 40)",
        "10 (10 to 10)",
        "10 (10 to 10)",
        "PPO least efficient",
        "-",  # seconds of a shared machine judge nobody
    ]
    assert rows["stability: sd of gold over seeds"][4] == "no"
    assert rows["responses rewarded: needs a reward model"][4] == "yes"
    assert rows["cost: seconds until 90% of the way"][0] == "-"


def test_a_mean_over_some_of_the_tasks_says_so() -> None:
    suite = bench()
    for line in suite["lines"]:
        line["means"] = {**line["means"], "converged_seconds": 5.0 if line["task"] == "clean" else None}
    rows = {row[0]: row[1:] for row in properties({"three_ways": suite}).rows}
    assert rows["cost: seconds until 90% of the way, 1 of 2 tasks"][0] == "5"


def test_sensitivity_is_read_from_the_frontiers() -> None:
    swept = [{"algorithm": name, "sensitivity": value} for name, value in (("ppo", 1.0), ("dpo", 0.2), ("ppo", 2.0))]
    assert of_knobs({"frontiers": swept}).cells()[1:4] == ["1.50 (1.00 to 2.00)", "0.20", "-"]


def test_the_suite_of_seeds_says_which_of_ipo_and_dpo_is_above() -> None:
    dpo = {"task": "clean", "algorithm": "dpo", "means": {"kl": 1.0}}
    gain = {"mean": -0.2, "low": -0.3, "high": -0.1}
    ipo = {"task": "clean", "algorithm": "ipo", "seeds": [1, 2], "gain": gain, "means": {"kl": 2.0}}
    (found,) = guide.directions({"tasks": {"clean": "", "flips": ""}, "lines": [dpo, ipo]})
    assert found == "- clean: IPO less DPO is -0.20 [-0.30, -0.10] over 2 seeds; KL 2.00 and 1.00."


def test_the_highest_area_under_a_frontier_is_in_bold() -> None:
    areas = [{"task": "clean", "algorithm": name, "area": area} for name, area in (("dpo", 2.0), ("ipo", 2.5))]
    found = guide.of_knobs(bench(frontiers=areas))
    assert found.rows == [["clean", "few errors", "2.00", "**2.50**"], ["flips", "", "-", "-"]]


def test_a_suite_with_other_values_is_not_among_the_bundled_ones(tmp_path: Path) -> None:
    for name, given in (("overfit", []), ("overfit-7c7562", ["seeds=[1]"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bench.json").write_text(json.dumps(bench(suite=name, overrides=given)))
    assert list(read(tmp_path)) == ["overfit"]


def test_a_folder_of_kept_tables_gives_the_same_page_as_the_runs(tmp_path: Path) -> None:
    written = json.dumps(bench())
    (tmp_path / "runs" / "three_ways").mkdir(parents=True)
    (tmp_path / "runs" / "three_ways" / "bench.json").write_text(written)
    (tmp_path / "suite_three_ways.json").write_text(written)
    assert list(text(read(tmp_path))) == list(text(read(tmp_path / "runs")))


def test_tables_that_are_not_there_or_too_old(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no bench.json of a whole suite"):
        read(tmp_path)
    (tmp_path / "three_ways").mkdir()
    (tmp_path / "three_ways" / "bench.json").write_text(json.dumps({"suite": "three_ways"}))
    with pytest.raises(RunError, match="`rlhf bench three_ways --table"):
        read(tmp_path)


def test_what_is_above_the_best_where_both_ran_is_not_below_it() -> None:
    one, two, three = ((seed, "these") for seed in (1, 2, 3))
    best = {one: [1.0, 1.0], two: [1.0, 1.1], three: [9.0, 9.0]}
    assert not below({one: [3.0, 3.0], two: [3.0, 3.1]}, best)
    assert below({one: [0.0, 0.0], two: [0.0, 0.1]}, best)
