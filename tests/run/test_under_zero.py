"""Two processes that divide the optimizer (DeepSpeed's ZeRO) train what one trains; skipped without DeepSpeed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from several import DIES, RECIPE, RUN, assert_same, prepared
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "adapter"), [("1", "none"), ("2", "none"), ("2", "{r: 2, target_modules: [q_proj, v_proj]}")]
)
def test_two_processes_that_divide_the_optimizer_train_what_one_trains(
    python: Warm, tmp_path: Path, stage: str, adapter: str
) -> None:
    """In two batches a step, of which the last step has one."""
    pytest.importorskip("deepspeed")
    lines = [line for line in RECIPE.splitlines(keepends=True) if "reward_model" not in line]
    lines[1:2] = [f"adapter: {adapter}\n", "checkpoint: none\n"]
    recipe = "".join(lines).replace("optim: sgd, learning_rate: 0.5", "learning_rate: 0.01")
    one, two = (prepared(tmp_path / name, recipe, BATCH=size, GA=2) for name, size in (("a", 2), ("b", 1)))
    env = os.environ | {DISABLED: "lifecycle.report"}
    assert python(*RUN, cwd=one, env=env).returncode == 0
    env |= ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": stage}
    found = python.together("-c", UNDER_ZERO + DIES, "99", cwd=two, env=env)
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert found[0].stderr.count(f"a step of DeepSpeedZeroOptimizer {stage}") == 8
    assert_same(one, two, near=1e-5, names=COMPARED)
