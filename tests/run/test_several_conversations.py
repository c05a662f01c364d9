"""Two processes converse as one: each generates for its share of the conversations that go on, which may be none."""

from __future__ import annotations

import os
from functools import reduce
from pathlib import Path

import pytest
import torch
from several import (
    ADAM,
    DIES,
    FSDP2,
    ONLINE,
    RUN,
    SHARDS,
    WRITES_THE_SAME,
    ZERO,
    assert_same,
    logged,
    prepared,
    weights,
)
from warm import Warm

from rlhf_plugins.registry.discovery import DISABLED

ALONE = os.environ | {DISABLED: "lifecycle.report"}
USER = """\
from zlib import crc32

def reply(prompts, completions):
    with open("asked.txt", "a") as notes:
        print(len(prompts), file=notes)
    return [" who" if crc32(repr(each).encode()) % 5 < ASKS else None for each in zip(prompts, completions)]
"""


def talking(folder: Path, size: int, asks: int = 3, **changes: str) -> Path:
    """A folder whose recipe trains in conversations, with batches of so many."""
    text = reduce(lambda recipe, one: recipe.replace(*one), changes.items(), ONLINE)
    text = text.replace("learning_rate: 0.5", "learning_rate: 0.05").replace("max_steps: 4", "max_steps: 6")
    text = text.replace(
        "    tokens_per", "    environment: {use: python, path: user.py:reply}\n    turns: 4\n    tokens_per"
    )
    made = prepared(folder, text.replace("ADVANTAGE", "gae"), 20, BATCH=size, REWARDED=size)
    (made / "user.py").write_text(USER.replace("ASKS", str(asks)))
    return made


def asked(folder: Path) -> list[int]:
    """How many responses the environment saw, in the order in which it was asked."""
    return [int(line) for line in (folder / "asked.txt").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize("advantage", ["gae", "rloo", "reinforce_plus_plus"])
def test_two_processes_learn_from_the_conversations_of_one(python: Warm, tmp_path: Path, advantage: str) -> None:
    one, two = (talking(tmp_path / name, size, ADVANTAGE=advantage) for name, size in (("one", 4), ("two", 2)))
    found = [python("-c", WRITES_THE_SAME, cwd=one), *python.together("-c", WRITES_THE_SAME, cwd=two)]
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert any(count % 2 for count in asked(two))
    assert asked(one) == asked(two)
    assert_same(one, two, near=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("asks", [1, 4])
def test_conversations_are_sampled_in_shares_of_what_goes_on(python: Warm, tmp_path: Path, asks: int) -> None:
    """With the likeliest token alone, in the numbers that TRL logs too; of one conversation a process has none.

    A rollout is one minibatch, since sampling in shares leaves other random numbers for the order of several.
    """
    greedy = {
        "num_iterations: 2": "top_p: 1.0e-6, eval_strategy: steps, eval_steps: 2",
        "accumulation_steps: 2": "accumulation_steps: 4",
    }
    greedy["num_generations: 2"] = "num_generations: 1"
    one, two = (talking(tmp_path / name, size, asks, **greedy) for name, size in (("one", 4), ("two", 2)))
    found = [python(*RUN, cwd=one, env=ALONE), *python.together(*RUN, cwd=two, env=ALONE)]
    assert [each.returncode for each in found] == [0, 0, 0], "".join(each.stderr for each in found)
    assert asked(one) == asked(two)
    assert_same(one, two, near=2e-5)


@pytest.mark.slow
def test_two_processes_that_hold_shards_learn_from_the_conversations_of_one(python: Warm, tmp_path: Path) -> None:
    one, two = (talking(tmp_path / name, size) for name, size in (("one", 4), ("two", 2)))
    assert python("-c", WRITES_THE_SAME, cwd=one, env=ALONE).returncode == 0
    found = python.together("-c", SHARDS + WRITES_THE_SAME, cwd=two, env=ALONE | FSDP2)
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert found[0].stderr.count("in shards") == 2
    assert asked(one) == asked(two)
    assert_same(one, two, near=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["2", "3"])
def test_two_processes_that_divide_the_optimizer_learn_from_the_conversations_of_one(
    python: Warm, tmp_path: Path, stage: str
) -> None:
    pytest.importorskip("deepspeed")
    adam = {"optim: sgd, learning_rate: 0.5": ADAM}
    one, two = (talking(tmp_path / name, size, **adam) for name, size in (("one", 4), ("two", 2)))
    assert python("-c", WRITES_THE_SAME, cwd=one, env=ALONE).returncode == 0
    launched = ALONE | ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": stage}
    found = python.together("-c", WRITES_THE_SAME, cwd=two, env=launched)
    assert [each.returncode for each in found] == [0, 0], "".join(each.stderr for each in found)
    assert asked(one) == asked(two)
    assert_same(
        one, two, near=2e-5, names=("loss", "grad_norm", "reward", "kl", "policy_loss", "value_loss", "entropy")
    )


@pytest.mark.slow
def test_conversations_that_were_killed_go_on_bit_for_bit(python: Warm, tmp_path: Path) -> None:
    kept = {"base: base\n": "base: base\ncheckpoint: {every: 1 steps}\n"}
    whole, killed = (talking(tmp_path / name, 2, 4, **kept) for name in ("whole", "killed"))
    assert [each.returncode for each in python.together("-c", DIES, "99", cwd=whole, env=ALONE)] == [0, 0]
    assert python.together("-c", DIES, "11", cwd=killed, env=ALONE)[1].returncode == -9
    again = python.together("-c", DIES, "99", "--resume", cwd=killed, env=ALONE)
    assert [each.returncode for each in again] == [0, 0], "".join(each.stderr for each in again)
    assert "online goes on from step 5" in again[0].stderr
    assert logged(killed) == logged(whole)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(killed)[name], tensor)
