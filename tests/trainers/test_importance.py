"""Losses weighted for what another policy sampled: by hand, and as TRL weights them where vLLM samples."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
from marks import slow
from torch import tensor

from rlhf_plugins import PluginError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.ppo import importance
from rlhf_plugins.trainers.ppo.config import OnlineConfig
from rlhf_plugins.trainers.ppo.importance import Correction
from rlhf_plugins.trainers.ppo.models import Outputs
from rlhf_plugins.trainers.ppo.step import loss, loss_weights, token_weights

from .online_parts import Bases, objective
from .test_online_script import assert_alike
from .test_step import micro_batch

LOG_RATIO = tensor([[math.log(2), math.log(3)], [math.log(0.5), math.nan]])  # of two responses


@pytest.mark.parametrize(
    ("mode", "weights"),
    [
        ("token_truncate", [[2, 2.5], [0.8, 1]]),
        ("token_mask", [[2, 0], [0, 1]]),
        ("sequence_truncate", [[2.5], [0.8]]),  # of 6 and 0.5
        ("sequence_mask", [[0], [0]]),
    ],
)
def test_weights_by_hand(mode: Any, weights: list[list[float]]) -> None:
    torch.testing.assert_close(Correction(mode, 0.8, 2.5).weights(LOG_RATIO), tensor(weights, dtype=torch.float32))


def test_without_bounds_nothing_is_masked() -> None:
    torch.testing.assert_close(Correction("sequence_mask", None, None).weights(LOG_RATIO), tensor([[6.0], [0.5]]))


def rollout(*log_probs: list[float], lengths: tuple[int, ...], places: tuple[int, ...]) -> Any:
    mask = torch.arange(len(log_probs[0])) < tensor(lengths).unsqueeze(1)
    rewards = SimpleNamespace(places=places)
    return SimpleNamespace(log_probs=tensor(log_probs), mask=mask, rewards=rewards, importance=None)


def test_how_far_another_sampler_is_by_hand() -> None:
    """Of three sampled responses the second was left out; one token has no number, and one row is padded."""
    found = rollout([-1.0, -2.0], [-0.5, 0.0], lengths=(2, 1), places=(0, 2))
    kl = (math.exp(0.25) - 1 - 0.25 + math.exp(0.75) - 1 - 0.75) / 2
    expected = {"sampling/kl": kl, f"{importance.SAMPLER}/mean": 0.5, f"{importance.SAMPLER}/max": 0.75}
    nats = [[-1.25, None], [-9.0], [-1.25]]
    assert importance.compared(nats, found, objective()) == pytest.approx(expected)
    assert found.importance is None
    weights = [math.exp(0.25), math.exp(0.75)]
    ratios = {"min": 1, "mean": (weights[0] + 1 + weights[1]) / 3, "max": weights[1]}
    expected |= {f"{importance.WEIGHTS}/{name}": value for name, value in ratios.items()}
    aim = objective(correction=Correction("token_truncate", None, 3.0))
    assert importance.compared(nats, found, aim) == pytest.approx(expected)
    torch.testing.assert_close(found.importance, tensor([[weights[0], 1.0], [weights[1], 1.0]]))
    assert importance.compared([[None, None], [-9.0], [None]], found, objective()) == {}
    apart = {name: value for name, value in expected.items() if name.startswith(importance.SAMPLER)}
    assert importance.compared(nats, found, objective(reshaped=["top_p"])) == pytest.approx(apart)


@pytest.mark.parametrize("weights", [[[0.5, 2.0], [3.0, 7.0]], [[0.5], [3.0]]], ids=["tokens", "responses"])
def test_the_loss_by_hand(weights: list[list[float]]) -> None:
    """Tokens of A = 1, 1 and -1 and ratios 2, 1 and 1/2, clipped to 3/2, -1 and 1/2; the KL has no weight."""
    mask, ones = tensor([[True, True], [True, False]]), torch.ones(2, 2)
    known = {"log_probs": 0 * ones, "reference": 0 * ones, "values": None, "returns": ones, "kl_coef": 0.1}
    found: Any = SimpleNamespace(advantages=tensor([[1.0, 1], [-1, 0]]), value_unit=None, **known)
    found.importance = tensor(weights)
    found.token_weights = token_weights([tensor([0, 1])], mask)
    found.loss_weights = loss_weights([tensor([0, 1])], mask, component("reduction", "tokens"))
    outputs = Outputs(tensor([[math.log(2), 0], [-math.log(2), 9]], requires_grad=True), None, None)
    aim = objective(policy_loss={"use": "clip", "epsilon": 0.5}, kl={"use": "in_loss"})
    total, numbers = loss(outputs, micro_batch([0, 1], mask), found, aim)
    second = weights[0][-1]
    kl = (0.5 - 1 + math.log(2)) + 0 + (2 - 1 - math.log(2))
    assert total.item() == pytest.approx((0.5 * -1.5 + second * -1 + 3 * 0.5 + 0.1 * kl) / 3)
    assert numbers["clip_fraction"] == pytest.approx(1 / 3)


class Beside:
    """In place of VLLMGeneration: completions of 1 to 6 tokens with log-probabilities, some unknown."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.generation_kwargs: dict[str, Any] = {}
        self.calls = 0

    def sync_weights(self) -> None:
        self.calls += 1

    def generate(self, prompts: list[list[int]], **_: Any) -> tuple[Any, ...]:
        ids = [[1 + (7 * i + 5 * t + self.calls) % 16 for t in range(1 + i % 6)] for i in range(len(prompts))]
        nats = [
            [[None if (i + t) % 7 == 6 else -2.0 - 0.4 * ((i + t) % 5)] for t in range(len(own))]
            for i, own in enumerate(ids)
        ]
        return prompts, ids, nats, None


@pytest.mark.parametrize(
    "options",
    [
        {},  # sequence_mask up to 3, by default
        {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_min": 0.5, "beta": 0.3},
        *slow(
            {"vllm_importance_sampling_mode": "token_mask", "vllm_importance_sampling_clip_max": 1.5},
            {"vllm_importance_sampling_mode": "sequence_truncate", "loss_type": "grpo"},
        ),
    ],
    ids=str,
)
def test_a_script_is_corrected_as_with_trl(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(trl.trainer.grpo_trainer, "VLLMGeneration", Beside)
    assert_alike(bases(), tmp_path, {"use_vllm": True, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "by_token"}, "by_token; write one of token_truncate"),
        ({"clip_min": 4.0}, "clip_min: 4.0 and _clip_max: 3.0 bound no ratio"),
        ({"clip_max": -1.0}, "clip_min: None and _clip_max: -1.0 bound no ratio"),
        ({"mode": "token_truncate", "clip_max": None}, "token_truncate needs vllm_importance_sampling_clip_max"),
    ],
)
def test_bounds_that_are_none_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {f"vllm_importance_sampling_{name}": value for name, value in options.items()}
    on = {"use_vllm": True, "vllm_importance_sampling_correction": True, "use_cpu": True, "bf16": False}
    with pytest.raises(ValueError, match=message):
        OnlineConfig(str(tmp_path), num_generations=1, **on, **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correction": True}, "trainer.vllm_importance_sampling_correction: corrects for what vLLM samples"),
        ({"use_vllm": True, "mode": "token_mask"}, "trainer.vllm_importance_sampling_mode: nothing is corrected"),
    ],
)
def test_a_recipe_in_which_nothing_would_be_corrected_is_refused(options: dict[str, Any], message: str) -> None:
    words = {
        name if name == "use_vllm" else f"vllm_importance_sampling_{name}": value for name, value in options.items()
    }
    with pytest.raises(PluginError, match=message):
        component("stage", {"use": "online", "trainer": words})
