"""Two processes that divide the optimizer (DeepSpeed's ZeRO) train what one trains; skipped without DeepSpeed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from several import (
    CHOOSES,
    DIES,
    ONLINE,
    RECIPE,
    REST,
    RUN,
    SAMPLED,
    WRITES_THE_SAME,
    ZERO,
    assert_chosen,
    assert_same,
    logged,
    prepared,
    weights,
)
from warm import Warm

from rlhf_plugins.registry.discovery import DISABLED
from rlhf_plugins.testing import tiny_base

UNDER_ZERO = """\
import sys
import deepspeed
step = deepspeed.DeepSpeedEngine.step
def noted(engine, *given, **named):
    print("a step of", type(engine.optimizer).__name__, engine.zero_optimization_stage(), file=sys.stderr)
    made = step(engine, *given, **named)
    parts = engine.zero_optimization_stage() == 3
    assert all((weights.numel() == 0) == parts for weights in engine.module.parameters())
    return made
deepspeed.DeepSpeedEngine.step = noted
"""
COMPARED = (  # not how many rewards are above 0, which at first is rounding
    *("loss", "grad_norm", "eval_loss", "learning_rate", "entropy", "mean_token_accuracy"),
    *("rewards/margins", "logps/chosen", "eval_rewards/margins"),
)
OPTIMIZERS = dict.fromkeys(("1", "2"), "DeepSpeedZeroOptimizer") | {"3": "DeepSpeedZeroOptimizer_Stage3"}


LORA = "{r: 2, target_modules: [q_proj, v_proj]}"


def recipe(adapter: str) -> str:
    """With Adam, whose usual epsilon would make steps of the rounding of gradients near 0."""
    lines = RECIPE.splitlines(keepends=True)
    lines[1:2] = [f"adapter: {adapter}\n", "checkpoint: {every: 1 steps}\n"]
    return "".join(lines).replace("optim: sgd, learning_rate: 0.2", "learning_rate: 0.01, adam_epsilon: 1.0e-4")


def environment(stage: str) -> dict[str, str]:
    return os.environ | ZERO | {DISABLED: "lifecycle.report", "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "adapter"), [("1", "none"), ("2", "none"), ("2", LORA), ("3", "none"), ("3", LORA)])
def test_two_processes_that_divide_the_optimizer_train_what_one_trains(
    python: Warm, tmp_path: Path, stage: str, adapter: str
) -> None:
    """In two batches a step, of which the last step has one; all weights of a base whose embeddings are its head's."""
    pytest.importorskip("deepspeed")
    one, two = (prepared(tmp_path / name, recipe(adapter), BATCH=size, GA=2) for name, size in (("a", 2), ("b", 1)))
    for folder in (one, two):
        tiny_base(folder / "base", tie_word_embeddings=adapter == "none")
    assert python(*RUN, cwd=one, env=os.environ | {DISABLED: "lifecycle.report"}).returncode == 0
    found = python.together("-c", UNDER_ZERO + DIES, "99", cwd=two, env=environment(stage))
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert found[0].stderr.count(f"a step of {OPTIMIZERS[stage]} {stage}") == 12
    assert_same(one, two, near=1e-5, names=COMPARED)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "adapter"), [("2", "none"), ("3", LORA)])
def test_the_best_model_so_far_is_kept(python: Warm, tmp_path: Path, stage: str, adapter: str) -> None:
    pytest.importorskip("deepspeed")
    text = CHOOSES.replace(LORA, adapter)
    one, two = (prepared(tmp_path / name, text, BATCH=size, GA=1) for name, size in (("a", 2), ("b", 1)))
    assert python(*RUN, cwd=one, env=os.environ | {DISABLED: "lifecycle.report"}).returncode == 0
    assert_chosen(one)
    found = python.together("-c", UNDER_ZERO + DIES, "99", cwd=two, env=environment(stage))
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert_same(one, two, near=1e-5, names=COMPARED)


FILE = """\
{NUMBERS "bf16": {"enabled": "auto"}, "zero_optimization": {"stage": STAGE, "overlap_comm": false,
 "offload_optimizer": {"device": "OPTIMIZER"}, "offload_param": {"device": "WEIGHTS"}}}
"""
NUMBERS = """\
"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
 "gradient_clipping": "auto",
"""
OFFLOADED = """\
def on_cpus(engine, *given, **named):
    own = engine.optimizer
    if getattr(own, "cpu_offload", False) or getattr(own, "offload_optimizer", False):
        print("steps on the CPU by", type(own.optimizer).__name__, file=sys.stderr)
    return noted(engine, *given, **named)
deepspeed.DeepSpeedEngine.step = on_cpus
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "optimizer", "parts"),
    [("1", "none", "none"), ("2", "cpu", "none"), ("3", "none", "none"), ("3", "cpu", "none"), ("3", "cpu", "cpu")],
)
def test_a_file_of_deepspeed_is_followed(python: Warm, tmp_path: Path, stage: str, optimizer: str, parts: str) -> None:
    """Also where it has the recipe's optimizer step on the CPU, weights wait there, or none of the recipe's numbers."""
    pytest.importorskip("deepspeed")
    one, two = (prepared(tmp_path / name, recipe(LORA), BATCH=size, GA=2) for name, size in (("a", 2), ("b", 1)))
    assert python(*RUN, cwd=one, env=os.environ | {DISABLED: "lifecycle.report"}).returncode == 0
    text = (
        FILE.replace("NUMBERS", "" if stage == "2" else NUMBERS)
        .replace("STAGE", stage)
        .replace("OPTIMIZER", optimizer)
        .replace("WEIGHTS", parts)
    )
    (two / "ds.json").write_text(text)
    launched = {name: value for name, value in environment(stage).items() if name != "ACCELERATE_DEEPSPEED_ZERO_STAGE"}
    launched |= {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(two / "ds.json")}
    found = python.together("-c", UNDER_ZERO + OFFLOADED + DIES, "99", cwd=two, env=launched)
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert found[0].stderr.count(f"a step of {OPTIMIZERS[stage]} {stage}") == 12
    assert found[0].stderr.count("steps on the CPU by AdamW") == (12 if optimizer == "cpu" else 0)
    assert_same(one, two, near=1e-5, names=COMPARED)


LEARNED = ("loss", "grad_norm", "reward", "policy_loss", "value_loss", "approx_kl", "entropy", "kl", "skipped")


def online(advantage: str, adapter: str) -> str:
    """With Adam too, and micro-batches of which one process has more than the other."""
    changed = {
        "adapter: {r: 2": "checkpoint: {every: 1 steps}\nadapter: {r: 2",
        "optim: sgd, learning_rate: 0.5": "learning_rate: 0.01, adam_epsilon: 1.0e-4",
        LORA: adapter,
        "max_steps: 4": "max_steps: 6",
        "batch: 40": "batch: 14",
        "ADVANTAGE": advantage,
    }
    return reduce(lambda text, one: text.replace(*one), changed.items(), ONLINE)


OWN, BESIDE = "gae\n    value: {network: own}", "gae\n    value: {adapter: {r: 2, target_modules: [q_proj]}}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "advantage", "adapter"),
    [
        ("1", OWN, "none"),
        ("2", BESIDE, LORA),
        ("2", "grpo", "none"),
        ("3", OWN, "none"),
        ("3", BESIDE, LORA),
        ("3", "grpo", "none"),
    ],
)
def test_two_processes_that_divide_the_optimizer_learn_from_the_rollout_of_one(
    python: Warm, tmp_path: Path, stage: str, advantage: str, adapter: str
) -> None:
    pytest.importorskip("deepspeed")
    recipe, names = online(advantage, adapter), (("one", 4), ("two", 2))
    one, two = (prepared(tmp_path / name, recipe, BATCH=size, REWARDED=size) for name, size in names)
    assert python("-c", WRITES_THE_SAME, cwd=one, env=os.environ | {DISABLED: "lifecycle.report"}).returncode == 0
    found = python.together("-c", UNDER_ZERO + WRITES_THE_SAME, cwd=two, env=environment(stage))
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert found[0].stderr.count(f"a step of {OPTIMIZERS[stage]} {stage}") == 7
    assert_same(one, two, near=2e-5, names=LEARNED)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [LORA, "none"])
def test_what_partitions_of_weights_sample_is_what_whole_copies_sample(
    python: Warm, tmp_path: Path, adapter: str
) -> None:
    """Rollouts, greedy baselines, evaluations and tasks."""
    pytest.importorskip("deepspeed")
    text = SAMPLED.replace(LORA, adapter).replace("{use: constraint, limit: 0.001}", "{coef: 0.05}")
    copies, parts = (prepared(tmp_path / name, text) for name in ("copies", "parts"))
    found = python.together(*RUN, cwd=copies, env=os.environ | {DISABLED: "lifecycle.report"})
    found += python.together("-c", UNDER_ZERO + DIES, "99", cwd=parts, env=environment("3"))
    assert [each.returncode for each in found] == [0] * 4, "".join(each.stderr for each in found)
    assert found[2].stderr.count("a step of DeepSpeedZeroOptimizer_Stage3 3") == 7
    assert_same(copies, parts, near=1e-5)


def finished(run: Callable[..., list[Any]], killed: Path, whole: Path) -> str:
    """What a killed run says when it goes on, to the numbers and weights of the one that was not, bit for bit."""
    again = run("99", "--resume", cwd=killed)
    assert [each.returncode for each in again] == [0, 0], "".join(each.stderr for each in again)
    assert logged(killed) == logged(whole)
    assert_equal_weights(killed, whole)
    return str(again[0].stderr)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "adapter"), [("1", LORA), ("2", "none"), ("3", LORA), ("3", "none")])
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
    assert "dpo goes on from step" in finished(run, killed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["2", "3"])
def test_a_killed_training_on_own_samples_goes_on_bit_for_bit(python: Warm, tmp_path: Path, stage: str) -> None:
    """It is killed in the second rollout."""
    pytest.importorskip("deepspeed")
    recipe = online("gae", LORA)
    whole, killed = (prepared(tmp_path / name, recipe, BATCH=2, REWARDED=2) for name in ("whole", "killed"))
    run = partial(python.together, "-c", DIES, env=environment(stage))
    assert [each.returncode for each in run("99", cwd=whole)] == [0, 0]
    assert [each.returncode for each in run("11", cwd=killed)] == [2, -9]
    assert "online goes on from step 5" in finished(run, killed, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "adapter"), [("1", "none"), ("2", LORA), ("3", "none"), ("3", LORA)])
def test_in_bfloat16_two_processes_that_divide_the_optimizer_are_two_with_whole_copies(
    python: Warm, tmp_path: Path, stage: str, adapter: str
) -> None:
    """To rounding in float32, in which weights are kept; from one process they are as far as from float32.

    Under ZeRO-3 the gated blocks of a CPU are not fused, and gradients of a layer with an adapter are added in another
    order, so that both round otherwise; in `online` the second shows.
    """
    pytest.importorskip("deepspeed")
    own = online("gae", adapter)
    if stage == "3":
        own = own.replace("max_steps: 6", "max_steps: 4")  # of one rollout: on some CPUs the next is rounded otherwise
    text = recipe(adapter) + own[own.index("  - stage: online") :] * (stage != "3" or adapter == "none")
    text = text.replace("logging_steps: 1", "logging_steps: 1, bf16: true")
    text = f"engine: {'plain' if stage == '3' else 'auto'}\n{text}"
    copies, parts = (prepared(tmp_path / name, text, BATCH=2, GA=1) for name in ("copies", "parts"))
    found = python.together("-c", WRITES_THE_SAME, cwd=copies, env=os.environ | {DISABLED: "lifecycle.report"})
    launched = environment(stage) | {"ACCELERATE_MIXED_PRECISION": "bf16"}
    found += python.together("-c", WRITES_THE_SAME, cwd=parts, env=launched)
    assert [each.returncode for each in found] == [0] * 4, "".join(each.stderr for each in found)
    assert {each.dtype for each in weights(parts).values()} == {torch.float32}
    assert_same(copies, parts, near=2e-5, names=COMPARED + LEARNED)


@pytest.mark.slow
@pytest.mark.parametrize(("advantage", "adapter"), [(OWN, "none"), (BESIDE, LORA)])
def test_partitions_of_weights_are_gathered_again_where_activations_are_recomputed(
    python: Warm, tmp_path: Path, advantage: str, adapter: str
) -> None:
    pytest.importorskip("deepspeed")
    own = online(advantage, adapter)
    text = recipe(adapter) + own[own.index("  - stage: online") :]
    text = text.replace("logging_steps: 1", "logging_steps: 1, gradient_checkpointing: true")
    copies, parts = (prepared(tmp_path / name, text, BATCH=2, GA=1) for name in ("copies", "parts"))
    found = python.together("-c", WRITES_THE_SAME, cwd=copies, env=os.environ | {DISABLED: "lifecycle.report"})
    found += python.together("-c", UNDER_ZERO + WRITES_THE_SAME, cwd=parts, env=environment("3"))
    assert [each.returncode for each in found] == [0] * 4, "".join(each.stderr for each in found)
    assert_same(copies, parts, near=1e-5, names=COMPARED + LEARNED)


HALF = "import torch, rlhf_plugins.engine.weights.loading as own\nown.half_precision = lambda: torch.bfloat16\n"


@pytest.mark.slow
def test_an_adapter_in_float32_on_a_base_in_bfloat16_trains_under_zero_3(python: Warm, tmp_path: Path) -> None:
    """As on a GPU, for a step."""
    pytest.importorskip("deepspeed")
    text = f"engine: plain\n{recipe(LORA).replace('num_train_epochs: 1', 'max_steps: 1')}"
    copies, parts = (prepared(tmp_path / name, text, BATCH=2, GA=1) for name in ("copies", "parts"))
    found = python.together("-c", HALF + DIES, "99", cwd=copies, env=os.environ | {DISABLED: "lifecycle.report"})
    found += python.together("-c", HALF + UNDER_ZERO + DIES, "99", cwd=parts, env=environment("3"))
    assert [each.returncode for each in found] == [0] * 4, "".join(each.stderr for each in found)
    assert_same(copies, parts, near=1e-5, names=COMPARED)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["2", "3"])
@pytest.mark.parametrize("adapter", [LORA, "none"])
def test_two_processes_that_divide_the_optimizer_train_the_ensemble_of_one(
    python: Warm, tmp_path: Path, adapter: str, stage: str
) -> None:
    pytest.importorskip("deepspeed")
    recipe = REST.replace(LORA, adapter).replace("max_steps: 2,", "max_steps: 2, adam_epsilon: 1.0e-4,")
    one, two = (
        prepared(tmp_path / name, recipe.partition("  - {stage: sft")[0], BATCH=size)
        for name, size in (("one", 4), ("two", 2))
    )
    assert python(*RUN, cwd=one).returncode == 0
    found = python.together("-c", UNDER_ZERO + DIES, "99", cwd=two, env=environment(stage))
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert found[0].stderr.count(f"a step of {OPTIMIZERS[stage]} {stage}") == 4
    assert_same(one, two, near=1e-5)


def assert_equal_weights(one: Path, other: Path) -> None:
    for name, tensor in weights(other).items():
        assert torch.equal(weights(one)[name], tensor)
