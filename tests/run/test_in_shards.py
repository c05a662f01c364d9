"""Two processes that hold weights in shards (FSDP2) train what one trains.

accelerate shards on GPUs alone, so that it is made to believe that it is on some.
"""

from __future__ import annotations

import json
import os
from functools import reduce
from pathlib import Path

import pytest
import torch
from several import (
    ADAM,
    CHOOSES,
    DIES,
    ENSEMBLE,
    FSDP2,
    IN_FLOAT64,
    ONLINE,
    RECIPE,
    REST,
    RUN,
    SAMPLED,
    SHARDS,
    WRITES_THE_SAME,
    assert_chosen,
    assert_same,
    in_float64,
    logged,
    prepared,
    weights,
)
from warm import Warm

from rlhf_plugins.registry.discovery import DISABLED

ALONE = os.environ | {DISABLED: "lifecycle.report"}
IN_SHARDS = ALONE | FSDP2
LORA = "{r: 2, target_modules: [q_proj, v_proj]}"


def with_adam(recipe: str, adapter: str) -> str:
    """A recipe with checkpoints and Adam."""
    text = recipe.replace(f"adapter: {LORA}\n", f"adapter: {adapter}\ncheckpoint: {{every: 1 steps}}\n", 1)
    return text.replace("optim: sgd, learning_rate: 0.2", ADAM)


def assert_killed_and_going_on(python: Warm, folder: Path, steps: int, stages: int) -> None:
    """It is killed after so many batches, goes on, and shards the weights of each stage."""
    first, second = python.together("-c", SHARDS + DIES, str(steps), cwd=folder, env=IN_SHARDS)
    assert (first.returncode, second.returncode) == (2, -9), first.stderr
    again = python.together("-c", SHARDS + DIES, "99", "--resume", cwd=folder, env=IN_SHARDS)
    assert [each.returncode for each in again] == [0, 0], "".join(each.stderr for each in again)
    assert (first.stderr + again[0].stderr).count("in shards") == stages + 1


def rewards(python: Warm, folder: Path, stage: str) -> list[float]:
    """Of the pairs, by the saved reward model."""
    words = ("-m", "rlhf_plugins.cli", "score", f"runs/r#{stage}", "pairs.jsonl", "--out", f"{stage}.jsonl")
    found = python(*words, cwd=folder)
    assert found.returncode == 0, found.stderr
    rows = map(json.loads, (folder / f"{stage}.jsonl").read_text().splitlines())
    return [reward for row in rows for reward in row["rewards"]]


GATHERS = """\
import torch
from torch.distributed.fsdp import fully_shard
from rlhf_plugins.contract import processes
from rlhf_plugins.engine.weights.shards import gathered, take_main_ones, whole
processes.join()
torch.manual_seed(processes.index())
model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1))
take_main_ones(model)
before = {name: each.clone() for name, each in model.state_dict().items()}
given = torch.ones(1, 3)
expected = model(given).item()
for part in (*model, model):
    fully_shard(part)
for _ in range(2):
    with gathered(model), torch.no_grad():
        found = [model[1](model[0](given)).item() for _ in range(1 + 2 * processes.index())]
    assert set(found) == {expected}
    with torch.no_grad():
        model[1].weight.mul_(2.0).mul_(0.5)
    model(given).sum().backward()
assert processes.gathered(expected) == [expected] * 2
after = whole(model.state_dict())
assert all(torch.equal(after[name], each) for name, each in before.items())
processes.leave()
"""


@pytest.mark.slow
def test_each_process_computes_by_itself_while_weights_are_gathered(python: Warm, tmp_path: Path) -> None:
    found = python.together("-c", GATHERS, cwd=tmp_path, env=IN_SHARDS)
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "steps"), [(LORA, 6), ("none", 10)])
def test_two_processes_that_hold_shards_train_what_one_trains_and_go_on(
    python: Warm, tmp_path: Path, adapter: str, steps: int
) -> None:
    """It is killed in the reward model, and in `preference`."""
    recipe = with_adam(RECIPE, adapter)
    one, two = (prepared(tmp_path / name, recipe, BATCH=size, GA=1) for name, size in (("a", 4), ("b", 2)))
    assert python(*RUN, cwd=one, env=ALONE).returncode == 0
    assert_killed_and_going_on(python, two, steps, 3)
    assert_same(one, two, near=1e-5)
    ours, theirs = (rewards(python, each, "reward_model") for each in (one, two))
    assert theirs == pytest.approx(ours, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [LORA, "none"])
def test_the_best_model_so_far_is_kept_of_shards(python: Warm, tmp_path: Path, adapter: str) -> None:
    text = CHOOSES.replace(LORA, adapter)
    one, two = (prepared(tmp_path / name, text, BATCH=size, GA=1) for name, size in (("a", 2), ("b", 1)))
    assert python(*RUN, cwd=one, env=ALONE).returncode == 0
    assert_chosen(one)
    launched = IN_SHARDS | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}  # which is taken as false
    found = python.together("-c", SHARDS + DIES, "99", cwd=two, env=launched)
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert_same(one, two, near=1e-5)


RATED = f"""\
base: base
adapter: {LORA}
data: {{format: ratings, source: rated.jsonl, dimensions: [kind, right]}}
stages:
  - stage: reward_model
    from: base
    pooling: attention
    head: {{use: multi, dimensions: [kind, right]}}
    loss: {{use: multi_task_uncertainty, dimensions: [kind, right], losses: [regression]}}
    head_learning_rate: 0.05
    max_grad_value: 0.2
    trainer: &trainer {{{ADAM}, num_train_epochs: 1, logging_steps: 1, per_device_train_batch_size: BATCH}}
  - {{stage: reward_model, name: top, from: base, train_layers: 1, trainer: *trainer}}
  - {{stage: reward_model, name: head, from: base, train_layers: 0, trainer: *trainer}}
"""


def rated(folder: Path) -> None:
    """Rates the responses of the pairs in two dimensions."""
    pairs = map(json.loads, (folder / "pairs.jsonl").read_text().splitlines())
    made = [
        {"prompt": pair["prompt"], "response": pair[side], "kind": len(pair[side]) / 9, "right": int(side == "chosen")}
        for pair in pairs
        for side in ("chosen", "rejected")
    ]
    (folder / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))


@pytest.mark.slow
def test_parts_of_a_reward_model_that_hold_weights_are_those_of_one_process(python: Warm, tmp_path: Path) -> None:
    one, two = (prepared(tmp_path / name, with_adam(RATED, "none"), BATCH=size) for name, size in (("a", 4), ("b", 2)))
    for folder in (one, two):
        rated(folder)
    found = python(*RUN, cwd=one, env=ALONE)
    assert found.returncode == 0, found.stderr
    assert_killed_and_going_on(python, two, 2, 3)
    assert_same(one, two, near=1e-5)
    for stage in ("reward_model", "top", "head"):
        ours, theirs = (rewards(python, each, stage) for each in (one, two))
        assert theirs == pytest.approx(ours, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [LORA, "none"])
def test_two_processes_that_hold_shards_train_the_ensemble_of_one(python: Warm, tmp_path: Path, adapter: str) -> None:
    recipe = with_adam(REST.partition("  - {stage: sft")[0], adapter).replace("max_steps: 2,", f"max_steps: 2, {ADAM},")
    one, two = (prepared(tmp_path / name, recipe, BATCH=size) for name, size in (("one", 4), ("two", 2)))
    assert python(*RUN, cwd=one, env=ALONE).returncode == 0
    assert_killed_and_going_on(python, two, 3, 2)
    assert_same(one, two, near=1e-5)
    ours, theirs = (rewards(python, each, "reward_ensemble") for each in (one, two))
    assert theirs == pytest.approx(ours, abs=1e-5)


OWN, BESIDE = "gae\n    value: {network: own}", "gae\n    value: {adapter: {r: 2, target_modules: [q_proj]}}"
LEARNED = ("loss", "grad_norm", "reward", "policy_loss", "value_loss", "approx_kl", "entropy", "kl", "skipped")


def online(advantage: str, adapter: str) -> str:
    """Rollouts in accumulated batches, and micro-batches of which one process has more than the other."""
    changed = {
        "optim: sgd, learning_rate: 0.5": ADAM,
        "max_steps: 4": "max_steps: 6",
        "batch: 40": "batch: 14",
        "ADVANTAGE": advantage,
    }
    return with_adam(reduce(lambda text, one: text.replace(*one), changed.items(), ONLINE), adapter)


@pytest.mark.slow
@pytest.mark.parametrize(("advantage", "adapter"), [("gae", LORA), (BESIDE, LORA), (OWN, "none"), ("grpo", "none")])
def test_two_processes_that_hold_shards_learn_from_the_rollout_of_one(
    python: Warm, tmp_path: Path, advantage: str, adapter: str
) -> None:
    recipe, names = online(advantage, adapter), (("one", 4), ("two", 2))
    one, two = (prepared(tmp_path / name, recipe, BATCH=size, REWARDED=size) for name, size in names)
    assert python("-c", WRITES_THE_SAME, cwd=one, env=ALONE).returncode == 0
    found = python.together("-c", SHARDS + WRITES_THE_SAME, cwd=two, env=IN_SHARDS)
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert found[0].stderr.count("in shards") == 2
    assert_same(one, two, near=2e-5, names=LEARNED)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [LORA, "none"])
def test_what_shards_sample_is_what_whole_copies_sample(python: Warm, tmp_path: Path, adapter: str) -> None:
    """Rollouts, greedy baselines, evaluations and tasks; and updates that are halved."""
    copies, shards = (prepared(tmp_path / name, with_adam(SAMPLED, adapter)) for name in ("copies", "shards"))
    found = python.together(*RUN, cwd=copies, env=ALONE)
    found += python.together("-c", SHARDS + DIES, "99", cwd=shards, env=IN_SHARDS)
    assert [each.returncode for each in found] == [0] * 4, "".join(each.stderr for each in found)
    assert found[2].stderr.count("in shards") == 3
    assert any("update_share" in row and row["update_share"] < 1 for row in logged(shards))
    assert_same(copies, shards, near=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("advantage", "adapter"), [(BESIDE, LORA), (OWN, "none")])
def test_a_killed_training_on_own_samples_in_shards_goes_on_bit_for_bit(
    python: Warm, tmp_path: Path, advantage: str, adapter: str
) -> None:
    """It is killed in the second rollout."""
    recipe = online(advantage, adapter)
    whole, killed = (prepared(tmp_path / name, recipe, BATCH=2, REWARDED=2) for name in ("whole", "killed"))
    found = python.together("-c", SHARDS + DIES, "99", cwd=whole, env=IN_SHARDS)
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert_killed_and_going_on(python, killed, 11, 2)
    assert logged(killed) == logged(whole)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(killed)[name], tensor)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [LORA, "none"])
def test_in_bfloat16_two_processes_that_hold_shards_are_two_with_whole_copies(
    python: Warm, tmp_path: Path, adapter: str
) -> None:
    """Weights, and so heads and values, are gathered in float32, and products computed in bfloat16."""
    few = f"trainer: {{{ADAM}, max_steps: 2, logging_steps: 1, per_device_train_batch_size: 2}}"
    text = online("gae", adapter).replace("trainer: {max_steps: 1, per_device_train_batch_size: REWARDED}", few)
    text = f"{text}  - {{stage: preference, name: dpo, from: base, {few}}}\n"
    text = text.replace("max_steps: 6", "max_steps: 4")  # of one rollout: on some CPUs the next is rounded otherwise
    text = text.replace("logging_steps: 1", "logging_steps: 1, bf16: true")
    copies, shards = (prepared(tmp_path / name, text, BATCH=2) for name in ("copies", "shards"))
    found = python.together("-c", WRITES_THE_SAME, cwd=copies, env=ALONE)
    launched = IN_SHARDS | {"ACCELERATE_MIXED_PRECISION": "bf16"}
    found += python.together("-c", SHARDS + WRITES_THE_SAME, cwd=shards, env=launched)
    assert [each.returncode for each in found] == [0] * 4, "".join(each.stderr for each in found)
    assert {each.dtype for each in weights(shards).values()} == {torch.float32}
    assert_same(copies, shards, near=2e-5, names=LEARNED)


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1])
def test_a_checkpoint_of_shards_goes_on_in_whole_copies_and_the_other_way_round(
    python: Warm, tmp_path: Path, place: int
) -> None:
    """It is killed in the reward model, and in the second rollout."""
    recipe = online(OWN, "none").replace("max_steps: 1, per", "max_steps: 2, per")
    whole, killed = (prepared(tmp_path / name, recipe, BATCH=2, REWARDED=2) for name in ("whole", "killed"))
    assert python.together("-c", DIES, "99", cwd=whole, env=ALONE)[0].returncode == 0
    ways = [(SHARDS + DIES, IN_SHARDS), (DIES, ALONE)]
    for turn, words in enumerate((("1",), ("11", "--resume"), ("99", "--resume"))):
        script, env = ways[(place + turn) % 2]
        found = python.together("-c", script, *words, cwd=killed, env=env)
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert "online goes on from step 5" in found[0].stderr
    assert_same(whole, killed, near=1e-5)


@pytest.mark.slow
def test_a_rollout_of_two_that_hold_shards_goes_on_in_one_process(python: Warm, tmp_path: Path) -> None:
    """It is killed after the first of the optimizer steps that learn from a rollout."""
    recipe = online(OWN, "none")
    one, killed = (prepared(tmp_path / n, recipe, BATCH=b, REWARDED=b) for n, b in (("one", 4), ("killed", 2)))
    found = [python("-c", WRITES_THE_SAME, cwd=one)]
    dies = WRITES_THE_SAME.partition("sys.argv")[0] + DIES
    found += python.together("-c", SHARDS + dies, "4", cwd=killed, env=IN_SHARDS)[1:]
    asked = [f"stages.{name}.trainer.per_device_train_batch_size=4" for name in ("reward_model", "online")]
    found += python.together("-c", dies, "99", "--resume", *asked, cwd=killed, count=1, env=ALONE)
    assert [each.returncode for each in found] == [0, -9, 0], "".join(each.stderr for each in found)
    assert "online goes on from step 1" in found[-1].stderr
    assert_same(one, killed, near=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [LORA, "none"])
def test_in_float64_shards_train_what_one_process_trains_to_a_millionth_of_a_millionth(
    python: Warm, tmp_path: Path, adapter: str
) -> None:
    online = ONLINE[ONLINE.index("  - stage: online") :].replace("ADVANTAGE", "grpo")
    recipe = RECIPE.replace(LORA, adapter) + ENSEMBLE + online
    one, two = (prepared(tmp_path / name, recipe, BATCH=size, GA=1) for name, size in (("one", 4), ("two", 2)))
    for folder in (one, two):
        in_float64(folder)
    found = [python("-c", IN_FLOAT64 + WRITES_THE_SAME, cwd=one)]
    found += python.together("-c", SHARDS + IN_FLOAT64 + WRITES_THE_SAME, cwd=two, env=IN_SHARDS)
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert {each.dtype for each in weights(two).values()} == {torch.float64}
    names = ("loss", "grad_norm", "eval_loss", "entropy", "reward", "policy_loss", "margin")
    assert_same(one, two, near=1e-12, rel=1e-9, names=names)
