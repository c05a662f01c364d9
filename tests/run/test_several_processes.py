"""Two processes train what one trains: losses, gradients and weights; and what they refuse before the first step."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from warm import Warm

from rlhf_plugins.testing import tiny_base
from rlhf_plugins.testing.tiny import ASKED, BAD, GOOD

PAIRS = 13  # of which a last batch holds one, so that a process has none
TRAINER = "optim: sgd, learning_rate: 0.5, num_train_epochs: 1, logging_steps: 1, lr_scheduler_type: constant"
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


def assert_same(one: Path, two: Path, near: float = 1e-6, names: tuple[str, ...] = ()) -> None:
    """Every number that was logged, or those of these names, and every weight, to rounding in float32."""
    assert len(logged(one)) == len(logged(two))
    for ours, theirs in zip(logged(one), logged(two), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours.pop("stage") == theirs.pop("stage")
        compared = [name for name in names or ours if name in ours]
        for name in compared:
            assert theirs[name] == pytest.approx(ours[name], rel=2e-4, abs=2e-6), name
    known, other = weights(one), weights(two)
    assert known.keys() == other.keys()
    for name, tensor in known.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=near)


@pytest.fixture(scope="module")
def one(python: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process leaves."""
    folder = prepared(tmp_path_factory.mktemp("one") / "run", BATCH=4, GA=1)
    found = python(*RUN, cwd=folder)
    assert found.returncode == 0, found.stderr
    return folder


def test_two_processes_train_what_one_trains(python: Warm, one: Path, tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run", BATCH=2, GA=1)
    first, second = python.together(*RUN, cwd=folder)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "dpo: finished" in first.stdout
    assert second.stdout == ""
    assert_same(one, folder)


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
WRITES_THE_SAME = """\
import sys
from collections import Counter
import rlhf_plugins.trainers.online as online
def generate(self, prompts):
    ids, seen, written = self._tokenize_prompts(prompts)[0], Counter(), []
    for one in ids:
        first = sum(one) * 7 + 5 * seen[tuple(one)] + self.state.global_step
        seen[tuple(one)] += 1
        written.append([3 + (first + 3 * i) % 12 for i in range(1 + first % 5)] + [1] * (first % 2))
    return ids, written, None, [" ".join(map(str, one)) for one in written]
online.OnlineTrainer._generate = generate
sys.argv = ["rlhf", "run", "r.yaml", *sys.argv[1:]]
from rlhf_plugins.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("advantage", ["gae", "grpo", "reinforce_plus_plus"])
def test_two_processes_learn_from_the_rollout_of_one(python: Warm, tmp_path: Path, advantage: str) -> None:
    recipe = ONLINE.replace("ADVANTAGE", advantage)
    one = prepared(tmp_path / "one", recipe, BATCH=4, REWARDED=4)
    two = prepared(tmp_path / "two", recipe, BATCH=2, REWARDED=2)
    found = [python("-c", WRITES_THE_SAME, cwd=one), *python.together("-c", WRITES_THE_SAME, cwd=two)]
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert_same(one, two, near=2e-5)


@pytest.mark.slow
def test_accumulated_batches_of_one_process_are_those_of_two(python: Warm, tmp_path: Path) -> None:
    # 12 rows: three batches of two and two; other numbers are means over the batches of a process. A reward model's
    # sampler draws four rows at once, or twice two, and so other ones.
    recipe = "".join(line for line in RECIPE.splitlines(keepends=True) if "reward_model" not in line)
    one, two = (prepared(tmp_path / name, recipe, 12, BATCH=2, GA=ga) for name, ga in (("one", 2), ("two", 1)))
    found = [python(*RUN, cwd=one), *python.together(*RUN, cwd=two)]
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert_same(one, two, names=("loss", "grad_norm"))


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


@pytest.mark.slow
def test_an_ensemble_a_merge_and_evaluations_are_those_of_one_process(python: Warm, tmp_path: Path) -> None:
    one, two = (prepared(tmp_path / name, REST, BATCH=size) for name, size in (("one", 4), ("two", 2)))
    found = [python(*RUN, cwd=one), *python.together(*RUN, cwd=two)]
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert_same(one, two, near=1e-5)
    ours, theirs = (json.loads((each / "runs/r/report.json").read_text()) for each in (one, two))
    rewards = [{name: row["accuracy"] for name, row in each["reward_models"].items()} for each in (ours, theirs)]
    assert rewards[0] == rewards[1]
    scores = [[row["gold"]["mean"] for row in each["policies"].values()] for each in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


SEVERAL = """\
base: base
adapter: {r: 2, target_modules: [q_proj, v_proj]}
seeds: [0, 1]
data: {format: preference, source: pairs.jsonl, test_source: held_out.jsonl}
stages:
  - {stage: auto, algorithms: [dpo], trainer: {max_steps: 1, logging_steps: 1, per_device_train_batch_size: 2}}
"""


@pytest.mark.slow
def test_seeds_of_a_chosen_algorithm_run_one_after_the_other(python: Warm, tmp_path: Path) -> None:
    found = python.together(*RUN, cwd=prepared(tmp_path / "run", SEVERAL))
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert found[0].stdout.splitlines()[-1] == "runs/r: 2 finished members"


DIES = """\
import os, signal, sys, transformers
own, left = transformers.Trainer.training_step, iter(range(int(sys.argv[1])))
def training_step(*given):
    if os.environ["RANK"] == "1" and next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return own(*given)
transformers.Trainer.training_step = training_step
sys.argv = ["rlhf", "run", "r.yaml", *sys.argv[2:]]
from rlhf_plugins.cli import main
main()
"""


@pytest.mark.slow
def test_a_killed_process_stops_the_run_which_goes_on(python: Warm, tmp_path: Path) -> None:
    recipe = RECIPE.replace("base: base\n", "base: base\ncheckpoint: {every: 1 steps}\n", 1)
    whole, killed = (prepared(tmp_path / name, recipe, BATCH=2, GA=1) for name in ("whole", "killed"))
    assert [each.returncode for each in python.together(*RUN, cwd=whole)] == [0, 0]
    began = time.monotonic()
    first, second = python.together("-c", DIES, "6", cwd=killed)
    assert time.monotonic() - began < 60
    assert (first.returncode, second.returncode) == (2, -9)
    assert re.search(r"process 1 \(pid \d+ on .*\) of 2 ended, and the others cannot go on without it", first.stderr)
    again = python.together("-c", DIES, "99", "--resume", cwd=killed)
    assert [each.returncode for each in again] == [0, 0], "".join(each.stderr for each in again)
    assert logged(killed) == logged(whole)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(killed)[name], tensor)


@pytest.mark.slow
def test_accelerate_launches_a_recipe_and_names_a_process_that_fails(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run", BATCH=2, GA=1)
    (folder / "a.yaml").write_text("distributed_type: MULTI_GPU\nnum_processes: 2\nmain_process_port: 0\n")
    words = [sys.executable, "-m", *RUN[1:], "--launch", "a.yaml"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("dpo: finished") == 1


SCORES = ("-m", "rlhf_plugins.cli", "score", "runs/r#reward_model", "pairs.jsonl", "--out", "out.jsonl")


@pytest.mark.slow
def test_two_processes_score_what_one_scores(python: Warm, one: Path) -> None:
    found = [python(*SCORES, cwd=one)]
    alone = [json.loads(line) for line in (one / "out.jsonl").rename(one / "alone.jsonl").read_text().splitlines()]
    found += python.together(*SCORES, cwd=one)
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    together = [json.loads(line) for line in (one / "out.jsonl").read_text().splitlines()]
    assert [row["rewards"] for row in together] == [pytest.approx(row["rewards"], abs=1e-6) for row in alone]
