"""A broken component stops the training and is named; nothing is trained on what it answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from torch import Tensor, nn
from trl_rows import preference_dataset

from rlhf_plugins.contract.interfaces import KLEstimator, Pooling, PreferenceLoss, RewardHead, RewardLoss
from rlhf_plugins.contract.records import PairLogps, RankedScores
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, load_trunk, lora_config
from rlhf_plugins.errors import PluginError, RlhfError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments, mean_loss
from rlhf_plugins.trainers.preference.trainer import PreferenceTrainer

from .conftest import OPTIONS, ranked, reward_trainer

Bases = Callable[..., Base]


def broken(base: Any, answer: Callable[..., Any]) -> Any:
    """A component of a kind that answers what the test wants of its inputs."""

    class Broken(base):
        def __call__(self, *inputs: Any) -> Any:
            return answer(*inputs)

    return Broken()


class BrokenHead(RewardHead):
    """A head whose module answers what the test wants."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer

    def build(self, width: int) -> nn.Module:
        head = nn.Linear(width, 1)
        head.forward = lambda features: self.answer(nn.Linear.forward(head, features))  # type: ignore[method-assign]
        return head


WRONG: list[tuple[Callable[[Tensor], Any], str]] = [
    (lambda x: x.unsqueeze(0) - x.unsqueeze(1), r"Broken of .* gave shape \(4, 4\), not \(4,\)"),
    (lambda x: x.mean(), r"Broken of .* gave shape \(\), not \(4,\)"),
    (lambda x: x.detach(), "Broken of .* gave numbers without a gradient"),
    (lambda x: x * float("nan"), "Broken of .* made nan of finite numbers"),
    (lambda x: x / 0, "Broken of .* made (-?inf|nan) of finite numbers"),
    (lambda x: x.tolist(), "Broken of .* gave a list, not a tensor"),
    (lambda x: x.no_such_method(), "Broken of .* failed: AttributeError"),
]
TRAINED = [pytest.param(*each, marks=[] if each in WRONG[:3:2] else pytest.mark.slow) for each in WRONG]


@pytest.mark.parametrize(("answer", "message"), WRONG)
def test_a_broken_loss_is_named_at_its_call(answer: Callable[..., Any], message: str) -> None:
    loss = broken(RewardLoss, lambda scores: answer(scores.chosen))
    with pytest.raises(PluginError, match=message):
        loss(RankedScores.of(torch.randn(4, 2, requires_grad=True) * 1))


@pytest.mark.parametrize(("answer", "message"), TRAINED)
def test_a_broken_preference_loss(bases: Bases, tmp_path: Path, answer: Callable[..., Any], message: str) -> None:
    args = arguments(trl.DPOConfig, tmp_path, 0, OPTIONS)
    loss = broken(PreferenceLoss, lambda logps: answer(logps.chosen))
    given = {"train_dataset": preference_dataset(tiny_pairs(8)), "processing_class": load_tokenizer(bases())}
    adapter = lora_config(Adapter(r=4), "CAUSAL_LM")
    with pytest.raises(PluginError, match=message):
        PreferenceTrainer(load_causal(bases()), None, args, **given, peft_config=adapter, loss=loss).train()


def trainer_of(base: Base, folder: Path, **changed: Any) -> Any:
    parts = {"pooling": "last_token", "reward_head": "scalar", "reward_loss": "bradley_terry"}
    made: Any = {kind: changed.get(kind) or component(kind, name) for kind, name in parts.items()}
    model = RewardModel(load_trunk(base), made["pooling"], made["reward_head"])
    args = arguments(trl.RewardConfig, folder, 0, {**OPTIONS, "max_length": None})
    return reward_trainer(model, made["reward_loss"], args, ranked(base, tiny_pairs(8)), load_tokenizer(base))


@pytest.mark.parametrize(("answer", "message"), TRAINED)
def test_a_broken_reward_loss(bases: Bases, tmp_path: Path, answer: Callable[..., Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        trainer_of(bases(), tmp_path, reward_loss=broken(RewardLoss, lambda scores: answer(scores.chosen))).train()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda hidden, mask: hidden, r"Broken of .* gave shape \(8, \d+, 32\), not \(8, 32\)"),
        (lambda hidden, mask: hidden[0], r"gave shape \(\d+, 32\), not \(8, 32\)"),
        (lambda hidden, mask: hidden[:, 0].detach(), "without a gradient"),
        (lambda hidden, mask: hidden[:, 999], "Broken of .* failed: IndexError"),
    ],
)
def test_a_broken_pooling(bases: Bases, tmp_path: Path, answer: Callable[..., Any], message: str) -> None:
    trainer = trainer_of(bases(), tmp_path)
    trainer.model.pooling = broken(Pooling, answer)
    with pytest.raises(PluginError, match=message):
        trainer.train()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda scores: scores, r"Linear of .* gave shape \(8, 1\), not \(8,\)"),
        (lambda scores: scores.mean(), r"gave shape \(\), not \(8,\)"),
        (lambda scores: scores[:, 0].detach(), "without a gradient"),
        (lambda scores: scores[:, 0] * float("nan"), "Linear of .* made nan of finite numbers"),
    ],
)
def test_a_broken_head(bases: Bases, tmp_path: Path, answer: Callable[..., Any], message: str) -> None:
    with pytest.raises(RlhfError, match=message):
        trainer_of(bases(), tmp_path, reward_head=BrokenHead(answer)).train()


def test_our_own_errors_pass_as_they_are() -> None:
    def refuse(scores: RankedScores) -> Tensor:
        raise RunError("the disk is full")

    with pytest.raises(RunError, match="^the disk is full$"):
        broken(RewardLoss, refuse)(RankedScores.of(torch.ones(1, 2)))


def test_without_gradients_none_is_asked_for() -> None:
    with torch.no_grad():
        doubled = broken(KLEstimator, lambda x: x * 2)
        assert doubled(torch.ones(2, requires_grad=True)).tolist() == [2, 2]


def test_numbers_that_diverged_are_not_the_losses_fault() -> None:
    scores = RankedScores.of(torch.tensor([[-float("inf"), 1.0]], requires_grad=True), torch.zeros(1))
    loss = component("reward_loss", "bradley_terry")
    with pytest.raises(RunError, match=r"RankedScores.scores became -inf at step 7: try a smaller learning_rate"):
        mean_loss(loss(scores), loss, scores, 7)


def test_the_mean_of_a_sound_loss_is_given_back() -> None:
    """h = (3 - 1) - (2 - 2) = 2 of the first pair and 0 of the second: ((2 - 5)^2 + (0 - 5)^2) / 2 = 17."""
    ones = torch.ones(2)
    logps = PairLogps.of(torch.tensor([3.0, 1.0], requires_grad=True), 2 * ones, ones, 2 * ones, ones, ones)
    loss = component("preference_loss", {"use": "ipo", "beta": 0.1})
    assert mean_loss(loss(logps), loss, logps, 0).item() == pytest.approx(17)
