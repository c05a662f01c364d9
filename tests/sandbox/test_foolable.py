"""A reward model learns what its annotators reward: length too, where they are biased. Trains two, so it is slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import run_recipe

RECIPE = """
base: sandbox
data: {format: sandbox, prompts: 400, test_prompts: 100}
stages:
  - {stage: reward, trainer: {learning_rate: 1.0e-3, per_device_train_batch_size: 32, num_train_epochs: 2}}
  - {stage: evaluate, prompts: 32, ceiling: 16, max_new_tokens: 48}
"""


@pytest.mark.slow
def test_length_biased_annotators_fool_the_reward_model(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    found: list[Any] = []
    for bias in (0.0, 0.3):
        overrides = [f"data.annotator.length_bias={bias}", f"output_dir={tmp_path / str(bias)}"]
        found.append(run_recipe(tmp_path / "recipe.yaml", overrides).report.reward_model)
    honest, fooled = found
    assert honest.length_correlation < 0.2 < 0.5 < fooled.length_correlation
    assert fooled.spearman < honest.spearman - 0.2
