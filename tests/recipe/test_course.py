"""`check` says how many steps, episodes and tokens each stage takes, before anything loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.recipe.base_policy import positions
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.recipe.course import courses
from rlhf_plugins.testing import tiny_base

SANDBOX = {"format": "sandbox", "prompts": 64, "pairs": 3}


def words(*stages: dict[str, Any], data: Any = SANDBOX, **more: Any) -> list[str]:
    found = courses(load_recipe({"base": "sandbox", "data": data, "stages": list(stages), **more}))
    return [course.words for course in found.values() if course]


def test_steps_and_tokens_of_pairs() -> None:
    trainer = {"max_steps": 10, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_length": 32}
    (found,) = words({"stage": "preference", "trainer": trainer})
    assert found == "10 steps of 8 pairs, 80 in all, at most 5,120 tokens (max_length 32)"  # 10 * 8 * 2 * 32


@pytest.mark.parametrize(
    ("stage", "limit", "said"),  # the sandbox takes 256 tokens, and a step has 8 pairs
    [
        ({"stage": "preference"}, {}, "at most 40,960 tokens (the model takes 256)"),  # 10 * 8 * 2 * 256
        ({"stage": "reward_model"}, {}, "at most 40,960 tokens (the model takes 256)"),
        ({"stage": "sft"}, {"max_length": None}, "at most 20,480 tokens (the model takes 256)"),
        ({"stage": "sft"}, {"max_length": 256}, "at most 20,480 tokens (max_length 256)"),
        ({"stage": "sft"}, {"packing": True}, "at most 81,920 tokens (max_length 1024)"),  # a row holds several
    ],
)
def test_no_sequence_is_longer_than_the_model_takes(stage: dict[str, Any], limit: dict[str, Any], said: str) -> None:
    trainer = {"max_steps": 10, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, **limit}
    (found,) = words({**stage, "trainer": trainer})
    assert found.endswith(said)


def test_the_positions_of_a_base_are_of_no_reward_model_on_another(tmp_path: Path) -> None:
    other = tiny_base(tmp_path / "other", max_position_embeddings=16).path
    trainer = {"max_steps": 10, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_length": 32}
    stages = ({"stage": "sft", "trainer": trainer}, {"stage": "reward_model", "base": "sandbox", "trainer": trainer})
    sft, reward = words(*stages, base=other)
    assert sft.endswith("at most 1,280 tokens (the model takes 16)")  # 10 * 8 * 16
    assert reward.endswith("at most 5,120 tokens (max_length 32)")  # 10 * 8 * 2 * 32


def test_epochs_become_steps_where_the_rows_are_known(tmp_path: Path) -> None:
    sft = {"stage": "sft", "trainer": {"num_train_epochs": 2, "per_device_train_batch_size": 60}}
    assert words(sft, max_length=50) == [
        "about 8 steps of 60 rows, 480 in all, at most 24,000 tokens (max_length 50)"
    ]  # 2 ceil(192/60)
    (file := tmp_path / "rows.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 200)
    (found,) = words(sft, data={"format": "preference", "source": str(file)})
    assert found.startswith("about 6 steps")  # 2 ceil(180 / 60): a tenth is held out
    (unknown,) = words(sft, data={"format": "preference", "source": "owner/rows"})
    assert unknown == "2 epochs of the rows, 60 rows a step"


def test_rollouts_and_episodes() -> None:
    trainer = {"max_steps": 10, "per_device_train_batch_size": 8, "steps_per_generation": 4, "num_iterations": 2}
    _, found = words({"stage": "reward_model"}, {"stage": "online", "trainer": {**trainer, "max_completion_length": 5}})
    # a rollout of 8 * 4 lasts 4 * 2 steps: 10 steps take 2 of them, 64 responses of up to 5 tokens
    assert found == "10 steps, 2 rollouts of 32 responses, 64 episodes, at most 320 sampled tokens"
    own = {"equal_groups": "resample", "advantage": "grpo", "trainer": {**trainer, "max_completion_length": 5}}
    _, filled = words({"stage": "reward_model"}, {"stage": "online", **own})  # 10 rounds more
    assert filled == found.replace("320 sampled tokens", "3,520 sampled tokens, of which 320 are of its own prompts")


def test_epochs_of_prompts_become_steps_where_the_prompts_are_loaded() -> None:
    trainer = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "steps_per_generation": 4, "num_iterations": 3}
    own = {**trainer, "gradient_accumulation_steps": 2, "max_completion_length": 5}
    stages = [{"stage": "reward_model"}, {"stage": "online", "trainer": own}]
    recipe = load_recipe({"base": "sandbox", "data": SANDBOX, "stages": stages})
    _, course = courses(recipe, Data((), prompts={"train": (Group("p"),) * 11})).values()
    # a rollout of 32 responses takes 4 prompts, of which 11 are 2: 2 * 4 * 3 / 2 = 12 steps, twice; 4 rollouts in all
    assert course is not None
    assert course.words == "about 24 steps, 4 rollouts of 32 responses, 128 episodes, at most 640 sampled tokens"
    assert (course.steps, course.sequences) == (24, 256)


def test_policies_of_an_evaluation(tmp_path: Path) -> None:
    evaluate = {"stage": "evaluate", "prompts": 4, "max_new_tokens": 3}
    ceiling = ", beside best of 64 where the true reward is known; reference base"
    *_, found = words({"stage": "preference"}, evaluate)
    assert found == "up to 4 prompts of each kind, 2 policies, at most 48 sampled tokens" + ceiling
    *_, found = words({"stage": "reward_model"}, evaluate)
    assert (
        found
        == "up to 4 prompts of each kind, 1 policy, at most 24 sampled tokens, beside best of 16"
        + ceiling.replace(", beside", " and")
    )
    recipe = load_recipe({"base": "sandbox", "data": SANDBOX, "stages": [evaluate]})
    (course,) = courses(recipe, Data((), prompts={"test": (Group("p"),) * 9})).values()
    assert course is not None
    assert (course.sequences, course.words.endswith("at most 12 sampled tokens" + ceiling)) == (4, True)  # of one kind
    (found,) = words({**evaluate, "responses": 5})
    assert found == "up to 4 prompts of each kind, 5 responses to each, 1 policy, at most 120 sampled tokens" + ceiling
    (rows := tmp_path / "sums.jsonl").write_text('{"prompt": "2 + 2", "answer": "4"}\n')
    task = {"use": "answers", "data": {"format": "prompts", "source": str(rows)}, "rows": 10, "max_new_tokens": 7}
    (found,) = words({**evaluate, "tasks": [task]})  # 8 responses of 3 tokens, and 10 answers of 7
    assert found == "up to 4 prompts of each kind, 1 policy, 1 task, at most 94 sampled tokens" + ceiling


@pytest.mark.parametrize(
    ("written", "most"),
    [
        ('{"max_position_embeddings": 16}', 16),
        ('{"text_config": {"max_position_embeddings": 16}}', 16),  # of a model of images and text
        ('{"hidden_size": 16}', None),
        ("16", None),
        ("{", None),
    ],
)
def test_tokens_that_a_model_takes_by_its_configuration(tmp_path: Path, written: str, most: int | None) -> None:
    (tmp_path / "config.json").write_text(written)
    assert positions(str(tmp_path)) == most
    assert positions(str(tmp_path / "none")) is None
