"""Token rewards of a reward model that was trained on whole responses: by hand, exact, learned, and used online."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.conftest import batch_of
from torch import tensor

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.data.batches.branches import PromptBranches
from rlhf_plugins.engine.weights.loading import load_trunk
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.handle import RewardHandle
from rlhf_plugins.reward_models.prefixes import prefix_features
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_base, tiny_encoder, tiny_pairs, tiny_run
from rlhf_plugins.testing.tiny import BAD, GOOD

TRAINER = {"learning_rate": 1e-2, "per_device_train_batch_size": 16, "disable_tqdm": True}
POOLINGS: list[Any] = [
    "last_token",
    "attention",
    {"use": "mean", "over": "response"},
    {"use": "sum", "over": "response", "scale": 2.0},
    {"use": "multi_scale", "window": 2},
]
RESPONSES = [[3, 4, 5, 9, 10], [6], [11, 7, 8]]
SAMPLES = Samples(["how"] * 3, ["x"] * 3, [[15, 16]] * 3, RESPONSES)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"use": "mean"}, [1.0, 2.0, 3.0]),
        ({"use": "sum", "scale": 2.0}, [0.5, 2.0, 4.5]),
        ("last_token", [1.0, 3.0, 5.0]),
    ],
)
def test_the_prefixes_by_hand(pooling: Any, expected: list[float]) -> None:
    """States 1, 3 and 5 of a response after a prompt with 7, which does not count."""
    batch = batch_of([PromptBranches([1], [[2, 3, 4]])])
    states = tensor([[[7.0], [1.0], [3.0], [5.0]]])
    made = (
        component("pooling", pooling)
        if pooling == "last_token"
        else component("pooling", {**pooling, "over": "response"})
    )
    assert prefix_features(states, batch, made.acting(1), None).flatten().tolist() == expected


@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda one: one if isinstance(one, str) else one["use"])
def test_the_numbers_of_tokens_sum_to_the_reward_of_every_prefix(tmp_path: Path, pooling: Any) -> None:
    torch.manual_seed(0)
    trunk = load_trunk(tiny_base(tmp_path / "base"))
    model = RewardModel(trunk, component("pooling", pooling), component("reward_head", "gaussian"))
    found = model.by_token(SAMPLES, 0)
    for size in range(1, 6):
        rows = [row for row, ids in enumerate(RESPONSES) if len(ids) >= size]
        prefixes = replace(SAMPLES.take(rows), response_ids=[RESPONSES[row][:size] for row in rows])
        expected = model.predict(prefixes, 0).reward
        torch.testing.assert_close(found.tokens[rows, :size].sum(1), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.variance, model.predict(SAMPLES, 0).variance)


def test_what_gives_no_numbers_to_tokens_is_refused(tmp_path: Path) -> None:
    model = RewardModel(
        load_trunk(tiny_encoder(tmp_path)), component("pooling", "mean"), component("reward_head", "scalar")
    )
    with pytest.raises(RunError, match="reads both ways"):
        model.by_token(SAMPLES, 0)
    with pytest.raises(RunError, match="is no single reward model"):
        RewardHandle(lambda samples: None).by_token(SAMPLES)  # type: ignore[arg-type, return-value]
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    with pytest.raises(RunError, match="others may use `prefixes`"):
        component("reward", {"use": "by_token", "reward": "gold"}).build(run)


@pytest.mark.slow
def test_words_are_paid_for_what_they_are_after_a_training_on_whole_responses(tmp_path: Path) -> None:
    """And a policy learns from it, on the base that it shares with the reward model."""
    base = replace(tiny_base(tmp_path / "base"), adapter=Adapter(r=8))
    run = tiny_run(base, tmp_path / "run", tiny_pairs(128))
    pooling = {"use": "sum", "over": "response", "scale": 4.0}
    trained = {"use": "reward_model", "pooling": pooling, "trainer": {**TRAINER, "max_steps": 16}}
    run.train(component("stage", trained), name="rm")
    reward = {"use": "by_token", "reward": "model"}
    samples = run.policy().encode(["how is\n"], [" ".join((*GOOD, *BAD))])
    tokens = run.open("reward", reward)(samples).tokens[0]
    assert tokens[: len(GOOD)].mean() > tokens[len(GOOD) : -1].mean() + 0.5
    trainer = {**TRAINER, "max_steps": 1, "num_generations": 4, "max_completion_length": 4}
    made = component("stage", {"use": "online", "reward": reward, "trainer": trainer}).run(run)
    assert abs(made.curves["explained_variance"].points[0][1]) < 10
