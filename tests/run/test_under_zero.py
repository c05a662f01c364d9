"""Two processes that divide the optimizer (DeepSpeed's ZeRO) train what one trains; skipped without DeepSpeed."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from several import DIES, RECIPE, RUN, assert_same, logged, prepared, weights
from warm import Warm

from rlhf_plugins.registry.discovery import DISABLED

UNDER_ZERO = """\
import sys
import deepspeed
step = deepspeed.DeepSpeedEngine.step
def noted(engine, *given, **named):
    print("a step of", type(engine.optimizer).__name__, engine.zero_optimization_stage(), file=sys.stderr)
    return step(engine, *given, **named)
deepspeed.DeepSpeedEngine.step = noted
"""
COMPARED = (  # not how many rewards are above 0, which at first is rounding
    *("loss", "grad_norm", "eval_loss", "learning_rate", "entropy", "mean_token_accuracy"),
    *("rewards/margins", "logps/chosen", "eval_rewards/margins"),
)
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_CPU": "false", "DS_ACCELERATOR": "cpu"}


LORA = "{r: 2, target_modules: [q_proj, v_proj]}"


def recipe(adapter: str) -> str:
    """With Adam, whose usual epsilon would make steps of the rounding of gradients near 0."""
    lines = RECIPE.splitlines(keepends=True)
    lines[1:2] = [f"adapter: {adapter}\n", "checkpoint: {every: 1 steps}\n"]
    return "".join(lines).replace("optim: sgd, learning_rate: 0.2", "learning_rate: 0.01, adam_epsilon: 1.0e-4")


def environment(stage: str) -> dict[str, str]:
    return os.environ | ZERO | {DISABLED: "lifecycle.report", "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "adapter"), [("1", "none"), ("2", "none"), ("2", LORA)])
def test_two_processes_that_divide_the_optimizer_train_what_one_trains(
    python: Warm, tmp_path: Path, stage: str, adapter: str
) -> None:
    """In two batches a step, of which the last step has one."""
    pytest.importorskip("deepspeed")
    one, two = (prepared(tmp_path / name, recipe(adapter), BATCH=size, GA=2) for name, size in (("a", 2), ("b", 1)))
    assert python(*RUN, cwd=one, env=os.environ | {DISABLED: "lifecycle.report"}).returncode == 0
    found = python.together("-c", UNDER_ZERO + DIES, "99", cwd=two, env=environment(stage))
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert found[0].stderr.count(f"a step of DeepSpeedZeroOptimizer {stage}") == 12
    assert_same(one, two, near=1e-5, names=COMPARED)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "adapter"), [("1", LORA), ("2", "none")])
def test_a_killed_training_in_parts_goes_on_bit_for_bit(python: Warm, tmp_path: Path, stage: str, adapter: str) -> None:
    """It is killed in the third step of `sft`, in `reward_model` and in `preference`."""
    pytest.importorskip("deepspeed")
    whole, killed = (prepared(tmp_path / name, recipe(adapter), BATCH=2, GA=1) for name in ("whole", "killed"))
    run = partial(python.together, "-c", DIES, env=environment(stage))
    assert [each.returncode for each in run("99", cwd=whole)] == [0, 0]
    assert [each.returncode for each in run("2", cwd=killed)] == [2, -9]
    for stage_name, steps in (("sft", "4"), ("reward_model", "4")):
        again = run(steps, "--resume", cwd=killed)
        assert f"{stage_name} goes on from step" in again[0].stderr
        assert [each.returncode for each in again] == [2, -9]
    again = run("99", "--resume", cwd=killed)
    assert [each.returncode for each in again] == [0, 0], "".join(each.stderr for each in again)
    assert "dpo goes on from step" in again[0].stderr
    assert logged(killed) == logged(whole)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(killed)[name], tensor)
