"""Evaluation while a stage trains: held-out numbers at `eval_strategy`, the best checkpoint kept, and an early end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from handed import folder_of
from safetensors.torch import load_file

from rlhf_plugins import Adapter, PluginError, Run, RunError, StageResult, session
from rlhf_plugins.contract.component import Component
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

EVERY = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 6, "learning_rate": 1e-2, "logging_steps": 1}
QUIET = {"disable_tqdm": True, "per_device_eval_batch_size": 4}
NUMBERS = {
    "sft": {"eval_loss"},
    "preference": {"eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"},
    "reward_model": {"eval_loss", "eval_accuracy", "eval_margin"},
}


@pytest.fixture(params=[Adapter(r=4), None], ids=["lora", "full"])
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    base = replace(tiny_base(tmp_path / "base"), adapter=request.param)
    return session(base, tiny_run(base, tmp_path / "rows", tiny_pairs(16)).data, tmp_path / "run")


def made(use: str, trainer: dict[str, Any], **options: Any) -> Component:
    found: Component = component("stage", {"use": use, "trainer": {**EVERY, **QUIET, **trainer}, **options})
    return found


@pytest.mark.parametrize("use", NUMBERS)
def test_numbers_on_held_out_rows_are_curves(run: Run, use: str) -> None:
    curves = run.train(made(use, {}), name="a").curves
    for name in NUMBERS[use]:
        assert [step for step, _ in curves[name].points] == [2, 4, 6], name
    assert not [name for name in curves if "runtime" in name or "per_second" in name]
    assert curves["eval_loss"].better == "lower"


def weights(result: StageResult) -> dict[str, Any]:
    """What the stage saved."""
    return load_file(next(folder_of(result.policies or result.rewards).glob("*model.safetensors")))


@pytest.mark.parametrize("use", NUMBERS)
def test_the_best_weights_are_those_that_are_left(run: Run, use: str) -> None:
    """With a constant learning rate they are those of a run that ends there."""
    steep = {"learning_rate": 0.2, "lr_scheduler_type": "constant", "load_best_model_at_end": True}
    found = run.train(made(use, steep), name="whole")
    losses = dict(found.curves["eval_loss"].points)
    best = min(losses, key=losses.__getitem__)
    short = run.train(made(use, {**steep, "max_steps": best, "load_best_model_at_end": False}), name="short")
    torch.testing.assert_close(weights(found), weights(short))
    assert not list((run.folder / "whole").rglob("optimizer*"))


def test_a_training_ends_once_held_out_rows_show_nothing_better(run: Run) -> None:
    still = {"learning_rate": 0.0, "max_steps": 20}
    found = run.train(made("preference", still, early_stopping_patience=2), name="a")
    assert [step for step, _ in found.curves["eval_loss"].points] == [2, 4, 6]


def test_what_an_evaluation_needs_is_said(run: Run) -> None:
    with pytest.raises(PluginError, match="early_stopping_patience: needs `trainer: {eval_strategy: steps}`"):
        component("stage", {"use": "sft", "early_stopping_patience": 1})
    with pytest.raises(RunError, match="eval_strategy: no rows are held out"):
        run.train(made("sft", {}), name="none", data=replace(run.data, test=()))
