"""The bundled quickstart, made small, through the real stages; and again from what it left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlhf_plugins.run.run import run_recipe

TRAINED = ("reward_model", "dpo", "ipo", "ppo")
SMALL = [
    *(f"data.{name}=8" for name in ("prompts", "test_prompts")),
    *(f"stages.{name}.trainer.max_steps=2" for name in TRAINED),
    *(f"stages.{name}.trainer.per_device_train_batch_size=8" for name in TRAINED),
    *("stages.ppo.trainer.max_completion_length=8", "stages.evaluate.max_new_tokens=8"),
    *(f"stages.evaluate.{name}=4" for name in ("prompts", "best_of", "ceiling")),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return run_recipe("quickstart", [*SMALL, f"output_dir={folder}"]).folder


def test_the_report_has_every_policy_and_the_reward_model(whole: Path) -> None:
    report = json.loads((whole / "report.json").read_text())
    assert list(report["policies"]) == ["base", "best-of-4", "dpo", "ipo", "ppo"]
    assert all(report["policies"][name]["peak_bytes"] > 0 for name in ("dpo", "ipo", "ppo"))
    assert 0 <= report["reward_model"]["accuracy"] <= 1
    assert [stage["name"] for stage in report["stages"]] == [*TRAINED, "evaluate"]


@pytest.mark.slow
def test_a_resumed_run_trains_the_same_policy(whole: Path) -> None:
    half = whole.with_name("half")
    shutil.copytree(whole, half)
    for stage in ("04-ppo", "05-evaluate"):
        shutil.rmtree(half / stage)
    run_recipe(whole / "recipe.yaml", [f"output_dir={half}"], resume=True)
    weights = "04-ppo/model/adapter_model.safetensors"
    assert (half / weights).read_bytes() == (whole / weights).read_bytes()
    numbers = [json.loads((run / "report.json").read_text())["policies"]["ppo"]["gold"] for run in (half, whole)]
    assert numbers[0] == numbers[1]
