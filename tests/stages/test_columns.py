"""Columns of the rows reach a reward while a policy is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

TRAINER = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "max_completion_length": 4,
    "logging_steps": 1,
}
SCORE = """
def score(prompts, completions, answer, **columns):
    assert [prompt.count("how") for prompt in prompts] == answer, (prompts, answer)
    return [float(number == len(text.split())) for text, number in zip(completions, answer)]
"""


@pytest.mark.parametrize("advantage", ["rloo", "remax"])  # the second scores greedy responses too
def test_a_python_reward_is_given_the_columns_of_each_prompt(tmp_path: Path, advantage: str) -> None:
    (tmp_path / "r.py").write_text(SCORE)
    groups = [replace(group, columns={"answer": str(group.prompt).count("how")}) for group in tiny_pairs(8)]
    run = tiny_run(replace(tiny_base(tmp_path / "base"), adapter=Adapter(r=4)), tmp_path / "run", groups)
    spec = {"use": "online", "reward": {"use": "python", "path": f"{tmp_path}/r.py:score"}, "advantage": advantage}
    result = component("stage", {**spec, "trainer": {**TRAINER, "disable_tqdm": True}}).run(run)
    assert "reward" in result.curves
