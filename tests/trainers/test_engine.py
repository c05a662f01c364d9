"""A training step computes the same with and without fast paths: its loss, its gradients and its greedy samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from torch import Tensor
from transformers import TrainerCallback
from trl_rows import preference_dataset

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine import set_engine
from rlhf_plugins.engine.cpu import decoding, product
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, load_trunk, lora_config, with_adapter
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.preference import trainer as preference

from .conftest import OPTIONS, ranked, reward_trainer
from .online_parts import trainer as online

Bases = Callable[..., Base]
PAIRS = tiny_pairs(8)
ONE = {**OPTIONS, "max_steps": 1, "max_grad_norm": 0.0}


def dpo(base: Base, folder: Path, adapter: bool) -> Any:
    args, loss = arguments(trl.DPOConfig, folder, 0, ONE), component("preference_loss", "dpo")
    config = lora_config(Adapter(r=4), "CAUSAL_LM") if adapter else None
    given = {"train_dataset": preference_dataset(PAIRS), "processing_class": load_tokenizer(base)}
    models = load_causal(base), None if adapter else load_causal(base)
    return preference.PreferenceTrainer(*models, args, **given, peft_config=config, loss=loss)


def rewards(base: Base, folder: Path, adapter: bool) -> Any:
    trunk = with_adapter(load_trunk(base), Adapter(r=4) if adapter else None, "FEATURE_EXTRACTION")
    model = RewardModel(trunk, component("pooling", "last_token"), component("reward_head", "scalar"))
    args, loss = arguments(trl.RewardConfig, folder, 0, ONE), component("reward_loss", "bradley_terry")
    return reward_trainer(model, loss, args, ranked(base, PAIRS), load_tokenizer(base))


def ppo(base: Base, folder: Path, adapter: bool) -> Any:
    """It samples greedily, since the engines draw other random numbers, and trains on the whole rollout at once."""
    whole = {"per_device_train_batch_size": 12, "steps_per_generation": 1, "top_k": 1}
    return online(base, folder, adapter=adapter, max_steps=1, max_grad_norm=0.0, **whole)


class Gradients(TrainerCallback):
    """Keeps the gradients of the first step."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        self.found = self.found or {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def step(trainer: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
    """What the first step logs, and its gradients."""
    gradients = Gradients()
    trainer.add_callback(gradients)
    for name, weights in trainer.model.named_parameters():
        if "lora_B" in name:  # or only it would have gradients
            torch.nn.init.normal_(weights, std=0.1)
    trainer.train()
    logged = trainer.state.log_history[0]
    return {name: logged[name] for name in logged.keys() - {"step_time"}}, gradients.found


@pytest.mark.parametrize("adapter", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["lora", "full"])
@pytest.mark.parametrize("make", [dpo, rewards, ppo])
def test_a_step_is_the_same_without_fast_paths(
    bases: Bases, tmp_path: Path, make: Callable[..., Any], adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product, "MKL_IS_SLOW", True)
    found = {}
    for engine in ("auto", "plain"):
        torch.manual_seed(0)
        with set_engine(engine):
            found[engine] = step(make(bases(), tmp_path / engine, adapter))
    (logged, gradients), (expected, expected_gradients) = found["auto"], found["plain"]
    assert logged == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        scale = float(expected_gradients[name].abs().max())
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4 * scale + 1e-7)


def test_without_fast_paths_the_policy_samples_by_transformers_own_loop(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "decode", lambda *_, **__: 1 // 0)
    with set_engine("plain"):
        step(ppo(bases(), tmp_path, adapter=True))
    with pytest.raises(ZeroDivisionError):
        step(ppo(bases(), tmp_path, adapter=True))
