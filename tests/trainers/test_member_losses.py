"""A reward loss that remembers is built for each member of an ensemble of heads: a member learns as it would alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trl
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from rlhf_plugins.contract.interfaces import RewardHead, RewardLoss
from rlhf_plugins.contract.records import Prediction, RankedScores
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.tokens import samples_of
from rlhf_plugins.engine.weights.loading import freeze_below, load_row_encoder, load_tokenizer, load_trunk
from rlhf_plugins.errors import ComponentError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.reward.trainer import _repeats

from .conftest import OPTIONS, losses, ranked, reward_trainer

Bases = Callable[..., Base]


class Count:
    """How often it was called, whatever the rewards are."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, scores: RankedScores) -> Tensor:
        self.calls += 1
        return (scores.chosen - scores.rejected) * 0 + self.calls

    def state_dict(self) -> dict[str, int]:
        return {"calls": self.calls}


class Module(nn.Module):
    """-log sigmoid(gap - mean of the gaps so far), with an offset that is learned."""

    sum: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))
        self.register_buffer("sum", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, scores: RankedScores) -> Tensor:
        gap = scores.chosen - scores.rejected
        if self.training:
            self.sum, self.seen = self.sum + gap.detach().sum(), self.seen + len(gap)
        return -logsigmoid(gap - self.sum / self.seen - self.offset)


@dataclass(frozen=True)
class Remembering(RewardLoss):
    module: bool

    def build(self) -> Any:
        return Module() if self.module else Count()


def training(base: Base, folder: Path, head: Any, module: bool, **options: Any) -> Any:
    """A trainer of a head alone."""
    torch.manual_seed(0)
    model = RewardModel(freeze_below(load_trunk(base), 0), component("pooling", "last_token"), head)
    args = arguments(trl.RewardConfig, folder, 0, {**OPTIONS, "optim": "sgd", "max_grad_norm": 0.0, **options})
    rows = ranked(base, tiny_pairs(24))
    given = {"tokens_per_batch": None, "sampler": component("sampler", "shuffled")}
    return reward_trainer(model, Remembering(module), args, rows, load_tokenizer(base), **given)


def heads(members: int) -> Any:
    return component("reward_head", {"use": "ensemble", "members": members, "bootstrap": False})


@pytest.mark.parametrize("head", [heads(3), component("reward_head", "scalar")])
def test_a_loss_is_called_once_a_batch_and_member(bases: Bases, tmp_path: Path, head: Any) -> None:
    trainer = training(bases(), tmp_path, head, module=False)
    assert losses(trainer) == [1, 2, 3, 4, 5]
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == 7  # of 6, 7 and 8
    seen = trainer._draws.state_dict()["loss"]  # of 20 of the 24 rows the members' mean in training
    assert sorted(seen[~np.isnan(seen)]) == sorted([1, 2, 3, 4, 5] * 4)
    names = ["loss", "loss_1", "loss_2"][: head.members]
    assert {name: made.state_dict() for name, made in trainer.stateful().items() if name != "order"} == dict.fromkeys(
        names, {"calls": 8}
    )


def test_a_member_learns_as_it_would_alone(bases: Bases, tmp_path: Path) -> None:
    """The ensemble's loss is the mean over its members, so that its rate is theirs times their number."""
    together = training(bases(), tmp_path, heads(3), module=True, learning_rate=0.3)
    starts = [head.weight.detach().clone() for head in together.model.head.heads]
    together.train()
    for m, start in enumerate(starts):
        alone = training(bases(), tmp_path, component("reward_head", "scalar"), module=True, learning_rate=0.1)
        alone.model.head.weight.data.copy_(start)
        alone.train()
        assert_close(together.model.head.heads[m].weight, alone.model.head.weight)
        own = getattr(together.model, "loss" if m == 0 else f"loss_{m}").state_dict()
        assert_close(own, alone.model.loss.state_dict())
        assert own["offset"] != 0


def test_an_ensembles_rewards_are_centred_whatever_its_members_say(bases: Bases, tmp_path: Path) -> None:
    """The loss of each member is 1; half of the mean square of a pair's sum is added."""
    options = {
        "max_steps": 1,
        "learning_rate": 0.0,
        "per_device_train_batch_size": 24,
        "center_rewards_coefficient": 0.5,
    }
    trainer = training(bases(), tmp_path, heads(3), module=False, **options)
    (found,) = losses(trainer)
    samples = samples_of(tiny_pairs(24), load_row_encoder(bases()))
    rewards = trainer.model.predict(samples, trainer.processing_class.pad_token_id).reward.view(-1, 2)
    assert found == pytest.approx(1 + 0.5 * float(rewards.sum(1).square().mean()), rel=1e-4)
    assert found > 1.01


def test_a_member_sees_a_row_as_often_as_its_bootstrap_drew_it(bases: Bases, tmp_path: Path) -> None:
    """Poisson(1): of 10,000 numbers 1/e are 0, as many 1 and half as many 2; the loss of a row is 1 here."""
    drawn = _repeats(5000, 2, seed=0)
    shares = [float((drawn == times).float().mean()) for times in (0, 1, 2)]
    assert shares == pytest.approx([1 / math.e, 1 / math.e, 1 / (2 * math.e)], abs=0.02)
    head, whole = component("reward_head", {"use": "ensemble", "members": 2}), {"per_device_train_batch_size": 24}
    trainer = training(bases(), tmp_path, head, module=False, max_steps=1, **whole)
    assert losses(trainer) == pytest.approx([float(_repeats(24, 2, seed=0).mean())])
    resampled = trainer._resampled(torch.full((3, 2), 0.5), torch.tensor([5, 0, 5]))
    assert_close(resampled, 0.5 * _repeats(24, 2, seed=0)[[5, 0, 5]])


def test_a_head_that_hides_its_members_is_refused() -> None:
    class Pair(nn.Linear):
        def forward(self, features: Tensor) -> Any:
            said = super().forward(features)
            return Prediction(said.mean(-1), members=said)

    @dataclass(frozen=True)
    class Hiding(RewardHead):
        def build(self, width: int) -> nn.Module:
            return Pair(width, 2)

    with pytest.raises(ComponentError, match="predicts 2 members, and says that they are 1"):
        Hiding().build(4)(torch.ones(1, 4))
