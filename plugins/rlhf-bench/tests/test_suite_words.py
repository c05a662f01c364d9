"""What the words of a suite become: seeds, budgets, shares, knobs, and the stages of each run in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rlhf_bench.suite import read

from rlhf_plugins import RunError, recipe_digest

Write = Callable[..., Path]
STAGE = {"stage": "preference", "name": "dpo", "loss": "dpo"}
ROWS = {"format": "sandbox", "prompts": 4}


def algorithm(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"algorithms": {"a": {"stages": list(stages or [STAGE]), **more}}, "baseline": "base"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {"clean": {"data": ROWS, "against": "clean"}}}, "tasks.clean.against: no other task 'clean'"),
        ({"tasks": {"clean": {"data": {}}}}, "tasks.clean: needs `data`"),
        ({"tasks": {"clean": {"data": ROWS, "dat": 1}}}, "tasks.clean.dat: unknown option (did you mean data"),
        ({"tasks": {"clean": {"data": ROWS, "about": 3}}}, "tasks.clean.about: should be text, got 3"),
        ({"seeds": []}, "seeds: should be a list of whole numbers, got []"),
        ({"seeds": [True]}, "seeds: should be a list of whole numbers, got [True]"),
        ({"budget": {"steps": 3}}, "budget: should be one of {flops: NUMBER} or {seconds: NUMBER}"),
        *(({"budget": {"flops": n}}, "budget.flops: should be a finite") for n in (0, -1, float("inf"), 10**400, True)),
        (algorithm(knob={"dpo.loss.beta": [0.1, 0.1]}), "a.knob: should be one option with different numbers"),
        (algorithm(knob={"dpo.loss.beta": []}), "a.knob: should be one option with different numbers"),
        (algorithm(knob={"dpo": [0.1, 0.2]}), "algorithms.a.knob.dpo: begins with no stage of it"),
        (algorithm({**STAGE, "share": 0.5}, {**STAGE, "name": "b"}), "should be 1 together, got [0.5, None]"),
        (algorithm({**STAGE, "share": -1}, {**STAGE, "name": "b", "share": 2}), "should be 1 together, got [-1, 2]"),
        (algorithm({**STAGE, "share": 0.99}), "should be 1 together, got [0.99]"),
        ({"start": {"stage": "sft"}}, "start: should be a list of stages"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str, suite: Write) -> None:
    with pytest.raises(RunError) as refused:
        read(suite(**changes))
    assert str(refused.value).count(message) == 1


def test_runs_are_of_each_seed_and_known_by_their_recipe(suite: Write) -> None:
    cells = read(suite(seeds=[4, 2], **algorithm())).cells
    assert [(str(cell), cell.recipe["seed"]) for cell in cells] == [("clean/a/4", 4), ("clean/a/2", 2)]
    assert [cell.digest for cell in cells] == [recipe_digest(cell.recipe) for cell in cells]
    assert len({cell.digest for cell in cells}) == 2


def test_three_seeds_are_the_default_and_quick_has_a_folder_of_its_own(suite: Write) -> None:
    file = suite(**algorithm())
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(("seeds", "- "))))
    assert read(file).seeds == (1, 2, 3)
    assert (read(file).name, read(file, quick=True).name) == ("small", "small-quick")


def test_what_all_share_is_before_what_an_algorithm_has_of_its_own(suite: Write, tmp_path: Path) -> None:
    start = {"stage": "sft", "name": "first"}
    (cell, _) = read(suite(start=[start], adapter={"r": 3}, **algorithm())).cells
    assert [stage.get("name") for stage in cell.recipe["stages"]] == ["first", "dpo", None]
    assert cell.trained == ("dpo",)
    assert (cell.recipe["base"], cell.recipe["adapter"]) == (str(tmp_path / "base"), {"r": 3})


@pytest.mark.parametrize(("written", "found"), [((None, None), (0.5, 0.5)), ((0.3333333, 0.6666666), None)])
def test_shares_are_equal_where_none_is_given_and_may_be_rounded(written: Any, found: Any, suite: Write) -> None:
    shares = [{} if share is None else {"share": share} for share in written]
    stages = [{"stage": "reward_model", **shares[0]}, {"stage": "online", **shares[1]}]
    (cell, _) = read(suite(budget={"seconds": 60}, **algorithm(*stages))).cells
    given = [stage["budget"]["seconds"] for stage in cell.recipe["stages"][:2]]
    assert given == pytest.approx([60 * share for share in found or written])


def test_a_knob_leaves_the_options_beside_it_and_makes_those_above_it(suite: Write) -> None:
    reward = {
        "stage": "reward_model",
        "name": "rm",
        "loss": {"use": "weighted", "by": "margin", "loss": "label_smoothed"},
    }
    steps = {**STAGE, "trainer": {"max_steps": 9}}
    plain = read(suite(**algorithm(steps, knob={"dpo.trainer.warmup_steps": [1, 2]})))
    assert plain.cells[0].recipe["stages"][0]["trainer"] == {"max_steps": 9, "warmup_steps": 1}
    assert repr(plain.knobs["a warmup_steps=1"]) == "('a', 1.0)"
    deep = read(suite(**algorithm(reward, STAGE, knob={"rm.loss.loss.epsilon": [0.2]})))
    inner = deep.cells[0].recipe["stages"][0]["loss"]
    assert inner == {"use": "weighted", "by": "margin", "loss": {"use": "label_smoothed", "epsilon": 0.2}}


def test_an_algorithm_with_a_knob_may_be_the_baseline_at_one_of_its_values(suite: Write) -> None:
    words = algorithm(knob={"dpo.loss.beta": [0.1, 0.5]}) | {"baseline": "a beta=0.5"}
    assert read(suite(**words)).baseline == "a beta=0.5"
    with pytest.raises(RunError, match="baseline: no algorithm 'a'"):
        read(suite(**{**words, "baseline": "a"}))
