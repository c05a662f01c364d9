"""Two processes ask a reward function in the main one, and log its parts and numbers as one process does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from several import ONLINE, WRITES_THE_SAME, assert_same, logged, prepared
from warm import Warm

from rlhf_plugins.registry.discovery import DISABLED

ALONE = os.environ | {DISABLED: "lifecycle.report"}
FUNCTIONS = """\
def graded(completions, log_metric, log_extra):
    log_metric("longest", max(map(len, completions)))
    log_extra("start", [text[:2] for text in completions])
    rows = [{"score": float(sum(map(ord, text)) % 7), "half": len(text) / 2} for text in completions]
    return [{"score": row["score"]} if row["score"] > 4 else row for row in rows]

def short(completions):
    return [-len(text) / 10 for text in completions]
"""
PARTS = "[{use: python, path: 'r.py:graded'}, {use: python, path: 'r.py:short'}]"
RECIPE = (
    ONLINE.replace(
        "    advantage: ADVANTAGE\n", f"    advantage: rloo\n    reward: {{use: weighted, parts: {PARTS}}}\n"
    )
    .replace("learning_rate: 0.5", "learning_rate: 0.05")
    .replace("num_iterations: 2", "num_iterations: 2, top_p: 1.0e-6, eval_strategy: steps, eval_steps: 2")
)


@pytest.mark.slow
def test_parts_and_numbers_of_functions_are_those_of_one_process(python: Warm, tmp_path: Path) -> None:
    one, two = (prepared(tmp_path / n, RECIPE, 20, BATCH=size, REWARDED=size) for n, size in (("one", 4), ("two", 2)))
    for folder in (one, two):
        (folder / "r.py").write_text(FUNCTIONS)
    found = [python("-c", WRITES_THE_SAME, cwd=one, env=ALONE)]
    found += python.together("-c", WRITES_THE_SAME, cwd=two, env=ALONE)
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert_same(one, two, near=2e-5)
    names = {name for line in logged(two) for name in line}
    parts = {"reward/graded", "reward/graded/half", "reward_missing/graded/half", "reward/short", "longest"}
    assert names >= parts | {f"eval_{name}" for name in parts - {"reward_missing/graded/half"}}
    shown, other = (next(folder.glob("runs/*/*/samples.jsonl")).read_text() for folder in (one, two))
    assert shown.count('"extra":{"start":') == other.count('"extra":{"start":') > 0
