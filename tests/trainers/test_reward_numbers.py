"""What a training of rewards logs of padded and tied scores, what its sampler is given, and what a bootstrap draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl

from rlhf_plugins import component
from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine.weights.loading import load_tokenizer, load_trunk
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.reward import trainer as reward
from rlhf_plugins.trainers.steps.draws import Draws

from .conftest import OPTIONS, losses, ranked, reward_trainer

Bases = Callable[..., Base]


def made(base: Base, folder: Path, groups: Any, seed: int = 0, sampler: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    model = RewardModel(load_trunk(base), component("pooling", "last_token"), component("reward_head", "scalar"))
    args, loss = (
        arguments(trl.RewardConfig, folder, seed, {**OPTIONS, **options}),
        component("reward_loss", "bradley_terry"),
    )
    return reward_trainer(model, loss, args, ranked(base, groups), load_tokenizer(base), sampler=sampler)


def test_the_places_that_a_smaller_group_leaves_are_no_rewards() -> None:
    scores, gaps = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]]), torch.tensor([-1.0, 2.0])
    present = torch.tensor([[True, True, False], [True, True, True]])
    assert reward.numbers([(scores, present, gaps)] * 2) == [([1, 2, 3, 4, 5], [-1, 2])] * 2
    assert reward.numbers([]) == []


def test_a_pair_of_equal_rewards_is_not_ordered(bases: Bases, tmp_path: Path) -> None:
    trainer = made(bases(), tmp_path, tiny_pairs(4), max_steps=1)
    torch.nn.init.zeros_(trainer.model.head.weight)
    assert losses(trainer) == [pytest.approx(0.6931, abs=1e-4)]
    (line,) = [entry for entry in trainer.state.log_history if "accuracy" in entry]
    assert (line["accuracy"], line["margin"]) == (0, 0)


@pytest.mark.parametrize(
    ("options", "planned", "seed"),
    [
        ({"max_steps": 3, "data_seed": 7}, 24, 7),
        ({"max_steps": -1, "num_train_epochs": 1.3, "seed": 5}, 32, 5),  # of 24 rows
    ],
)
def test_a_sampler_plans_whole_steps_by_the_seed_of_the_rows(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], planned: int, seed: int
) -> None:
    """A step is of two batches of four."""
    given: list[Any] = []
    monkeypatch.setattr(reward, "Draws", lambda *some: given.extend(some[2:]) or Draws(*some))
    shuffled = component("sampler", "shuffled")
    made(bases(), tmp_path, tiny_pairs(24), sampler=shuffled, gradient_accumulation_steps=2, **options)
    assert given == [8, planned, seed]


def test_a_bootstrap_is_drawn_by_the_seed_row_by_row_and_member_by_member(bases: Bases, tmp_path: Path) -> None:
    drawn = [reward._repeats(400, 3, seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert float(drawn[0].mean()) == pytest.approx(1, abs=0.1)  # Poisson of mean 1 and variance 1
    assert float(drawn[0].var()) == pytest.approx(1, abs=0.15)
    trainer, rows = made(bases(), tmp_path, tiny_pairs(24), seed=5), torch.tensor([3, 1])
    assert torch.equal(trainer._resampled(torch.full((2, 3), 2.0), rows), 2 * reward._repeats(24, 3, 5)[rows])
