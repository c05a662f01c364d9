"""A small recipe that one process or several run, and what it leaves, compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

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
TIMES = {"stage", "step", "reference_time"}
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


def logged(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("runs/*/metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {file: load_file(file) for file in sorted(folder.glob("runs/*/*/model/**/*.safetensors"))}
    return {f"{file.parent.parent.name} {k}": v for file, values in found.items() for k, v in values.items()}


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
