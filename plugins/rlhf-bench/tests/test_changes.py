"""From task to task, on the same prompts and seeds alone."""

from __future__ import annotations

from typing import Any

import pytest
from rlhf_bench.changes import changes, table
from rlhf_bench.columns import COST
from rlhf_bench.suite import Suite
from rlhf_bench.table import MEANS, OF_ALL, lines, notes, verdicts, won

NONE: dict[str, Any] = {**dict.fromkeys((*MEANS, *OF_ALL)), "dimensions": {}, "tasks": {}, "ratings": {}, "base": [0.0]}
NONE |= {"judge": "gold reward", "versions": {"torch": "2.13"}}
TASKS = {"clean": "", "flips": "", "far": ""}


def row(task: str, seed: int, *scores: float, prompts: str = "a") -> dict[str, Any]:
    named = {"task": task, "algorithm": "dpo", "seed": seed, "status": "finished"}
    return {**named, "scores": list(scores), "prompts": prompts}


def test_a_change_is_the_mean_difference_on_the_same_prompts() -> None:
    against = {"flips": "clean", "far": "clean"}
    suite = Suite("s", "", (1, 2), {"flops": 1.0}, "base", TASKS, {"dpo": ""}, {}, (), against)
    rows = [row("clean", 1, 2, 4), row("clean", 2, 2, 4), row("flips", 1, 1, 2), row("far", 1, 0, 0, prompts="b")]
    (found,) = changes(suite, rows)
    assert (found.task, found.change.mean, found.change.low) == ("flips", -1.5, None)  # one seed ran on both
    shown = table(suite, [found])
    assert shown is not None
    assert shown.rows == [["flips", "clean", "-1.50"], ["far", "clean", "-"]]


def test_a_gain_is_of_the_same_prompts_alone() -> None:
    """A judge that abstains leaves other prompts out under each algorithm."""
    rows = [{**NONE, **row("clean", seed, 2, 4)} for seed in (1, 2)]
    rows += [{**NONE, **row("clean", seed, 1, 1, prompts=of), "algorithm": "ipo"} for seed, of in ((1, "a"), (2, "b"))]
    suite = Suite("s", "", (1, 2), {"flops": 1.0}, "dpo", {"clean": ""}, {"dpo": "", "ipo": ""}, {}, ())
    found = lines(suite, rows)
    assert [line.gain and line.gain.mean for line in found] == [None, None, -2.0]
    assert any(note.startswith("clean, ipo, seed 2: no gain") for note in notes(suite, rows, found))


def test_each_seed_that_is_not_at_equal_compute_is_named_and_so_are_other_versions() -> None:
    rows = [{**NONE, **row("clean", seed, 2, 4), "spent": spent} for seed, spent in ((1, 0.7), (2, 1.3), (3, 1.0))]
    rows[0]["versions"] = {"torch": "2.12"}
    suite = Suite("s", "", (1, 2, 3), {"flops": 1.0}, "dpo", {"clean": ""}, {"dpo": ""}, {}, ())
    assert notes(suite, rows, lines(suite, rows)) == [
        "clean, dpo, seed 1, 2: used 70%, 130% of the budget, not equal compute.",
        "Runs were made with other versions: torch 2.12 and 2.13.",
    ]


def test_the_table_of_cost_shows_what_a_mean_over_seeds_would_hide() -> None:
    rose = {"converged_step": 60, "converged_seconds": 5.0}
    rows = [{**NONE, **row("clean", seed, 2), "spent": spent, **rose} for seed, spent in ((1, 0.7), (2, 1.3))]
    rows[0] |= dict.fromkeys(OF_ALL)
    rows += [{**NONE, **row("flips", seed, 2), "spent": 1.0, **rose} for seed in (1, 2)]
    suite = Suite("s", "", (1, 2), {"flops": 1.0}, "dpo", {"clean": "", "flips": ""}, {"dpo": ""}, {}, ())
    columns = dict(COST)
    some, every = (line for line in lines(suite, rows) if line.algorithm == "dpo")
    names = ("budget used", "90% at step", "90% after seconds")
    assert [columns[name](some) for name in names] == ["70% to 130%", "1 of 2", "1 of 2"]
    assert [columns[name](every) for name in names] == ["100%", "60", "5"]


@pytest.mark.parametrize(
    ("kind", "said"), [("loss", "nothing of what a policy writes"), (None, "trained on its judge is favoured")]
)
def test_what_is_to_be_known_of_a_judge(kind: str | None, said: str) -> None:
    rows = [{**NONE, **row("clean", 1, 2), "judge": "another", "judge_kind": kind}]
    suite = Suite("s", "", (1, 2), {"flops": 1.0}, "dpo", {"clean": ""}, {"dpo": ""}, {}, ())
    (note,) = notes(suite, rows, lines(suite, rows))
    assert note.startswith("Judged by another: ")
    assert said in note


def test_a_prompt_is_won_by_a_gain_and_half_won_by_a_draw() -> None:
    found = won([[1.0, 0.0, -2.0, 3.0]] * 2)
    assert found.mean == pytest.approx(2.5 / 4)
    assert [won([[gain] * 2] * 2)[:3] for gain in (-1.0, 1.0)] == [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)]
    assert won([[1.0, 1.0], [1.0, -1.0]])[1:3] == (0.0, 1.0)  # Student's would go on


def test_what_is_above_or_below_the_baseline_beyond_chance_is_said() -> None:
    """Three seeds at 1 with a deviation of 0.1 have t = 10 sqrt(3) and p = 1 - t / sqrt(t^2 + 2)."""
    of_seeds = {"dpo": (0.0, 0.0, 0.0), "ipo": (1.0, 1.1, 0.9), "ppo": (-1.0, -1.1, -0.9), "rloo": (1.0, -1.0, 0.0)}
    suite = Suite(
        "s", "", (1, 2, 3), {"flops": 1.0}, "dpo", {"clean": "", "flips": ""}, dict.fromkeys(of_seeds, ""), {}, ()
    )
    rows = [
        {**NONE, **row("clean", seed, score, score), "algorithm": name}
        for name, scores in of_seeds.items()
        for seed, score in enumerate(scores, 1)
    ]
    found = lines(suite, [*rows, {**NONE, **row("flips", 1, 0.0)}])
    by_name = {line.algorithm: line for line in found if line.task == "clean"}
    assert verdicts(suite, found) == [
        "clean: above dpo: ipo; below: ppo (p < 0.05, corrected for 3 comparisons).",
    ]
    p = 1 - 300**0.5 / 302**0.5
    assert [by_name[name].p for name in ("dpo", "ipo", "ppo")] == [None, pytest.approx(3 * p), pytest.approx(3 * p)]
    assert (by_name["ipo"].spread, by_name["rloo"].spread) == pytest.approx((0.1, 1.0))
    assert next(line.spread for line in found if (line.task, line.algorithm) == ("flips", "dpo")) is None


def test_a_tasks_runs_that_are_not_there_are_said() -> None:
    suite = Suite("s", "", (1,), {"flops": 1.0}, "dpo", {"clean": "", "flips": ""}, {"dpo": ""}, {}, ())
    rows = [{**NONE, **row("clean", 1, 2), "dimensions": {"helpful": 0.5}, "tasks": {"sums": 0.25}}]
    rows += [{**row("flips", seed), "status": "failed", "message": "no memory"} for seed in (1, 2)]
    found = lines(suite, rows)
    assert notes(suite, rows, found) == [
        "One seed says nothing of how much seeds differ: there are no intervals and no p-values.",
        "flips, dpo, seed 1, 2: failed: no memory",
        "flips: the baseline dpo has no finished run, so that there are no gains.",
    ]
    (of_dpo,) = (line for line in found if line.algorithm == "dpo")
    assert (of_dpo.means["helpful"], of_dpo.means["task: sums"]) == (0.5, 0.25)
