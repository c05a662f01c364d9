"""What the bandit chose is measured once for each place, and its costs are worked by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rlhf_bench import bandits
from rlhf_bench.bandits import Place, choices, missing, section, trainings, whole
from rlhf_bench.bundled import find
from rlhf_bench.suite import read


def row(task: str, seed: int = 1, by: str = "halving", **more: Any) -> dict[str, Any]:
    taken = {"algorithm": "dpo", "regret": 0.5, "order": 2.84, "trainings": 5, "flops": 1e11}
    return {"task": task, "seed": seed, "by": by, **taken, **more}


def test_what_has_a_row_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Place] = []
    monkeypatch.setattr(bandits, "chosen", lambda suite, place, folder: ran.append(place) or row(*place))
    file = tmp_path / "bandits.json"
    monkeypatch.setattr(sys, "argv", ["bandits", str(file), str(tmp_path)])
    bandits.main()
    assert len(ran) == len(set(ran)) == 12 * (2 + 1 + 1)  # tasks, and the seeds of each way
    rows = json.loads(file.read_text())["rows"]
    file.write_text(json.dumps({"rows": rows[:7] + rows[8:]}))
    ran.clear()
    bandits.main()
    assert [tuple(place) for place in ran] == [(rows[7]["task"], rows[7]["seed"], rows[7]["by"])]


def test_an_algorithm_is_trained_by_its_own_stages_without_the_budget_of_the_suite() -> None:
    suite = read(find("selection"))
    cell = next(cell for cell in suite.cells if cell.algorithm == "ppo")
    stages = trainings(cell.recipe, cell.trained)
    assert [(stage["stage"], stage["name"]) for stage in stages] == [
        ("reward_model", "reward_model"),
        ("online", "ppo"),
    ]
    assert not [stage for stage in stages if "budget" in stage]
    assert next(missing(suite, ["held_tiny"], [])) == ("held_tiny", 1, "halving")


def test_a_seed_under_which_a_task_is_missing_is_left_out() -> None:
    rows = [row("b"), row("a"), row("a", 2), row("a", by="ucb", algorithm="ipo"), row("b", by="ucb")]
    found = whole(rows, ["a", "b"])
    assert {by: [(one["task"], one["seed"]) for one in of] for by, of in found.items()} == {
        "halving": [("a", 1), ("b", 1)],
        "ucb": [("a", 1), ("b", 1)],
    }
    assert choices(found["ucb"]) == [{"a": "ipo", "b": "dpo"}]


def test_what_a_way_takes_is_compared_with_training_everything() -> None:
    """1e11 and 3e11 FLOPs are 2 trainings of 1e11 in the mean; with two algorithms that is all of them."""
    said = list(section({"halving": [row("a"), row("b", flops=3e11, regret=1.5)]}, (1e11, 2)))
    assert "| halving | 1 | 2.5e+10 | 5 | 2e+11 | 2.00 | 1.00 | 2.84 |" in said
    assert said[-1].endswith("is no selector.")
    assert list(section({"halving": [row("a")]}, (1e11, 2)))[-1].endswith("less than training all of them.")
