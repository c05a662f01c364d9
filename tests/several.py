"""A small recipe that one process or several run, and what it leaves, compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_plugins.testing import tiny_base
from rlhf_plugins.testing.tiny import ASKED, BAD, GOOD

PAIRS = 13  # of which a last batch holds one, so that a process has none
TRAINER = "optim: sgd, learning_rate: 0.2, num_train_epochs: 1, logging_steps: 1, lr_scheduler_type: constant"
EVALUATES = "eval_strategy: steps, eval_steps: 2, per_device_eval_batch_size: BATCH"
RECIPE = f"""\
base: base
adapter: {{r: 2, target_modules: [q_proj, v_proj]}}
data: {{format: preference, source: pairs.jsonl, test_source: held_out.jsonl}}
stages:
  - stage: sft
    from: base
    trainer: &trainer {{{TRAINER}, {EVALUATES}, per_device_train_batch_size: BATCH, gradient_accumulation_steps: GA}}
  - {{stage: reward_model, from: base, sampler: hard_mining, tokens_per_batch: 24, trainer: *trainer}}
  - {{stage: preference, name: dpo, from: base, tokens_per_batch: 24, trainer: *trainer}}
"""
REST = """\
base: base
adapter: {r: 2, target_modules: [q_proj, v_proj]}
data: {format: preference, source: pairs.jsonl, test_source: held_out.jsonl}
stages:
  - {stage: reward_ensemble, members: 2, trainer: {max_steps: 2, logging_steps: 1, per_device_train_batch_size: BATCH}}
  - {stage: evaluate_reward, metrics: [accuracy, calibration]}
  - {stage: sft, trainer: {max_steps: 1, logging_steps: 1, per_device_train_batch_size: BATCH}}
  - {stage: merge}
  - {stage: evaluate, prompts: 4, best_of: 2, max_new_tokens: 8, temperature: 0}
"""
ONLINE = """\
base: base
adapter: {r: 2, target_modules: [q_proj, v_proj]}
data: {format: preference, source: pairs.jsonl, test_source: held_out.jsonl}
stages:
  - {stage: reward_model, from: base, trainer: {max_steps: 1, per_device_train_batch_size: REWARDED}}
  - stage: online
    from: base
    advantage: ADVANTAGE
    tokens_per_batch: 40
    trainer: {optim: sgd, learning_rate: 0.5, max_steps: 4, logging_steps: 1, lr_scheduler_type: constant,
      per_device_train_batch_size: BATCH, gradient_accumulation_steps: 2, steps_per_generation: 4, num_generations: 2,
      num_iterations: 2, max_completion_length: 8}
"""
ENSEMBLE = f"""\
  - stage: reward_ensemble
    members: 2
    from: base
    trainer: {{{TRAINER}, per_device_train_batch_size: BATCH}}
"""
ADAM = "learning_rate: 0.01, adam_epsilon: 1.0e-4"  # whose usual epsilon would make steps of rounding
SAMPLED = f"""\
base: base
adapter: {{r: 2, target_modules: [q_proj, v_proj]}}
data: {{format: preference, source: pairs.jsonl, test_source: held_out.jsonl}}
stages:
  - {{stage: reward_model, from: base, trainer: {{max_steps: 1, per_device_train_batch_size: 2}}}}
  - stage: sft
    from: base
    tasks: &tasks [{{use: violations, reward: model, above: 0.0, max_new_tokens: 8}}]
    trainer: {{{ADAM}, max_steps: 2, logging_steps: 1, per_device_train_batch_size: 2, eval_strategy: steps,
      eval_steps: 1}}
  - stage: online
    advantage: remax
    tasks: *tasks
    exploration: {{epsilon: 0.2}}
    kl: {{use: constraint, limit: 0.001}}
    trainer: {{{ADAM}, max_steps: 4, logging_steps: 1, per_device_train_batch_size: 2, gradient_accumulation_steps: 1,
      steps_per_generation: 2, num_generations: 2, max_completion_length: 8, eval_strategy: steps, eval_steps: 2}}
"""
BEST = (
    "load_best_model_at_end: true, metric_for_best_model: loss, greater_is_better: true"  # the worst, seldom the last
)
CHOOSES = RECIPE.replace("eval_steps: 2", f"eval_steps: 2, {BEST}")
RUN = ("-m", "rlhf_plugins.cli", "run", "r.yaml")


def rows(first: int, count: int) -> str:
    """Pairs of several lengths, each to a prompt of its own."""
    good, bad = " ".join(GOOD), " ".join(BAD)
    made = [
        {
            "prompt": " ".join([ASKED[i % 6], ASKED[i // 6], *["who"] * (i % 3), ""]),
            "chosen": good[: 3 + 4 * (i % 4)],
            "rejected": bad[: 3 + 4 * (i % 3)],
        }
        for i in range(first, first + count)
    ]
    return "".join(json.dumps(row) + "\n" for row in made)


def prepared(folder: Path, recipe: str = RECIPE, pairs: int = PAIRS, **words: int) -> Path:
    """A folder with a recipe, its base and its rows; `words` are replaced in the recipe."""
    folder.mkdir()
    tiny_base(folder / "base")
    (folder / "pairs.jsonl").write_text(rows(0, pairs))
    (folder / "held_out.jsonl").write_text(rows(pairs, 5))
    for word, value in words.items():
        recipe = recipe.replace(word, str(value))
    (folder / "r.yaml").write_text(recipe)
    return folder


def in_float64(folder: Path) -> None:
    """Makes its base one in float64."""
    file = folder / "base/model.safetensors"
    save_file({name: each.double() for name, each in load_file(file).items()}, file, {"format": "pt"})


def logged(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("runs/*/metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {file: load_file(file) for file in sorted(folder.glob("runs/*/*/model/**/*.safetensors"))}
    return {f"{file.parent.parent.name} {k}": v for file, values in found.items() for k, v in values.items()}


def assert_chosen(folder: Path) -> None:
    """In each stage another step than the last had the largest held-out loss."""
    for stage in ("sft", "reward_model", "dpo"):
        losses = [each["eval_loss"] for each in logged(folder) if each["stage"] == stage and "eval_loss" in each]
        assert max(losses) > losses[-1]


def assert_same(one: Path, two: Path, near: float = 1e-6, names: tuple[str, ...] = (), rel: float = 2e-4) -> None:
    """Every number that was logged, or those of these names, and every weight, to rounding in float32."""
    assert len(logged(one)) == len(logged(two))
    for ours, theirs in zip(logged(one), logged(two), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours.pop("stage") == theirs.pop("stage")
        compared = [name for name in names or ours if name in ours]
        for name in compared:
            assert theirs[name] == pytest.approx(ours[name], rel=rel, abs=rel / 100), name
    known, other = weights(one), weights(two)
    assert known.keys() == other.keys()
    for name, tensor in known.items():
        torch.testing.assert_close(other[name], tensor, rtol=min(1e-5, rel), atol=near)


IN_FLOAT64 = """\
import torch
import rlhf_plugins.engine
torch.set_default_dtype(torch.float64)
torch.float32, torch.Tensor.float = torch.float64, torch.Tensor.double
"""

DIES = """\
import os, signal, sys, transformers
own, left = transformers.Trainer.training_step, iter(range(int(sys.argv[1])))
def training_step(*given):
    if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1 and next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return own(*given)
transformers.Trainer.training_step = training_step
sys.argv = ["rlhf", "run", "r.yaml", *sys.argv[2:]]
from rlhf_plugins.cli import main
main()
"""

WRITES_THE_SAME = """\
import sys
from collections import Counter
import rlhf_plugins.trainers.online.trainer as online
def generate(self, prompts):
    ids, seen, written = self._tokenize_prompts(prompts)[0], Counter(), []
    for one in ids:
        first = sum(one) * 7 + 5 * seen[tuple(one)] + self.state.global_step
        seen[tuple(one)] += 1
        written.append([3 + (first + 3 * i) % 12 for i in range(1 + first % 5)] + [1] * (first % 2))
    unknown = [[None] * len(one) for one in written]
    return ids, written, None, [" ".join(map(str, one)) for one in written], unknown
online.OnlineTrainer._generate = generate
sys.argv = ["rlhf", "run", "r.yaml", *sys.argv[1:]]
from rlhf_plugins.cli import main
main()
"""

SHARDS = """\
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
made = AcceleratorState.__init__
def in_shards(self, *given, **named):
    if PartialState(cpu=True).distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    made(self, *given, **named)
AcceleratorState.__init__ = in_shards
import sys
import accelerate.accelerator as accelerator
shard = accelerator.fsdp2_prepare_model
def noted(*given):
    print("in shards", file=sys.stderr)
    return shard(*given)
accelerator.fsdp2_prepare_model = noted
"""
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_CPU": "false", "DS_ACCELERATOR": "cpu"}
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
