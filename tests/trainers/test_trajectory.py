"""Fifty optimizer steps of ours and of stock TRL stay on one trajectory, to rounding that has had time to grow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from torch import Tensor
from transformers import AutoModelForSequenceClassification
from trl_rows import preference_dataset

from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.preference import trainer as preference

from .conftest import OPTIONS, furthest, losses, ranked, reward_trainer, trained

Bases = Callable[..., Base]
STEPS = {**OPTIONS, "max_steps": 50, "learning_rate": 1e-3}
PAIRS = tiny_pairs(48)


def policies(base: Base, folder: Path) -> tuple[Any, Any]:
    args = [arguments(trl.DPOConfig, folder, 0, {**STEPS, "precompute_ref_log_probs": mine}) for mine in (True, False)]
    words, rows = load_tokenizer(base), preference_dataset(PAIRS)
    given = {"train_dataset": rows, "processing_class": words}
    own = {"tokens_per_batch": 40, "reference_cache": folder / "reference.sqlite"}
    ours = preference.PreferenceTrainer(load_causal(base), None, args[0], **given, **own)
    return ours, trl.DPOTrainer(load_causal(base), load_causal(base), args[1], **given)


def rewards(base: Base, folder: Path) -> tuple[Any, Any]:
    args = [arguments(trl.RewardConfig, folder, 0, STEPS) for _ in range(2)]
    torch.manual_seed(0)
    stock = AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=1, dtype=torch.float32)
    model = RewardModel(load_causal(base).model, component("pooling", "last_token"), component("reward_head", "scalar"))
    model.head.load_state_dict(stock.score.state_dict())
    words, loss = load_tokenizer(base), component("reward_loss", "bradley_terry")
    ours = reward_trainer(model, loss, args[0], ranked(base, PAIRS), words)
    given = {"train_dataset": preference_dataset(PAIRS), "processing_class": words}
    return ours, trl.RewardTrainer(model=stock, args=args[1], **given)


def named(trainer: Any) -> dict[str, Tensor]:
    """Its weights, by names that both sides have."""
    found = trained(trainer).items()
    return {name.replace("score.", "head.").removeprefix("model.").removeprefix("trunk."): w for name, w in found}


@pytest.mark.slow
@pytest.mark.parametrize("make", [policies, rewards])
def test_fifty_steps_are_those_of_stock_trl(bases: Bases, tmp_path: Path, make: Callable[..., Any]) -> None:
    ours, stock = make(bases(), tmp_path)
    before = trained(ours)
    assert losses(ours) == pytest.approx(losses(stock), rel=2e-3, abs=2e-4)
    apart = furthest(named(ours), named(stock))
    assert apart < 0.02 * furthest(trained(ours), before)
