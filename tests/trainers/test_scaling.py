"""Scaled losses, as of float16: the same training in every trainer, also over skipped and infinite steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from accelerate.utils import AutocastKwargs
from marks import slow

from rlhf_plugins.engine import precision
from rlhf_plugins.engine.precision import half_precision
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers import arguments as module
from rlhf_plugins.trainers.arguments import arguments, record_curves
from rlhf_plugins.trainers.scaling import accept_skips

from .conftest import furthest, losses, trained
from .online_parts import FREE, Bases, logged, objective, trainer
from .test_recovery import dpo, reward, sft


def online(base: Any, folder: Path) -> Any:
    return trainer(base, folder, max_steps=4)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A trainer whose losses are multiplied by a scale, as accelerate does on a GPU, computed in float16 or as ever."""

    def patched(found: Any, half: bool = False, scale: float = 2.0**16) -> Any:
        accelerator = found.accelerator
        monkeypatch.setitem(accelerator.state._shared_state, "_mixed_precision", "fp16")
        accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=scale), True
        accelerator.autocast_handler = AutocastKwargs(enabled=half)
        accept_skips(found)
        return found

    return patched


@pytest.mark.parametrize("make", [dpo, *slow(sft, reward, online)])
def test_it_trains_as_without_a_scale(bases: Bases, tmp_path: Path, scaled: Callable[..., Any], make: Any) -> None:
    base = bases()
    torch.manual_seed(0)
    plain = make(base, tmp_path / "plain")
    plain.train()
    torch.manual_seed(0)
    found = scaled(make(base, tmp_path / "scaled"))
    found.train()
    assert furthest(trained(found), trained(plain)) < 1e-5
    assert found.accelerator.scaler.get_scale() == 2.0**16


@pytest.mark.parametrize("make", [online, *slow(sft, reward, dpo)])
def test_in_float16_its_losses_are_those_of_float32(
    bases: Bases, tmp_path: Path, scaled: Callable[..., Any], make: Any
) -> None:
    base = bases()
    torch.manual_seed(0)
    plain = losses(make(base, tmp_path / "plain"))
    torch.manual_seed(0)
    found = scaled(make(base, tmp_path / "scaled"), half=True, scale=2.0**8)
    steps = 2 if make is online else 5  # samples of its next rollout differ
    assert losses(found)[:steps] == pytest.approx(plain[:steps], rel=0.02, abs=0.02)


def test_skipped_minibatches_change_neither_weights_nor_the_scale(
    bases: Bases, tmp_path: Path, scaled: Callable[..., Any]
) -> None:
    aim = objective(lambda samples: [1.0] * len(samples.responses), advantage="grpo", **FREE)
    found = scaled(trainer(bases(), tmp_path, aim, max_steps=3))
    before = trained(found)
    found.train()
    assert furthest(trained(found), before) == 0
    assert logged(found, "skipped") == [1, 1, 1]
    assert found.accelerator.scaler.get_scale() == 2.0**16


def test_a_step_of_infinite_gradients_is_left_out_and_the_scale_falls(
    bases: Bases, tmp_path: Path, scaled: Callable[..., Any]
) -> None:
    found = scaled(dpo(bases(), tmp_path))
    before = trained(found)
    weights = next(p for p in found.model.parameters() if p.requires_grad)
    weights.register_hook(lambda grad: grad + torch.inf)
    found.train()
    assert found.accelerator.scaler.get_scale() == 2.0**11  # halved in each of 5 steps
    assert furthest(trained(found), before) == 0


def test_float16_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(precision, "computes_in_bf16", lambda native=native: native)
        assert half_precision() is expected
    monkeypatch.undo()
    assert half_precision() is None


@pytest.mark.parametrize(
    ("given", "expected"), [({}, (False, True)), ({"bf16": False}, (False, False)), ({"fp16": False}, (False, False))]
)
def test_trainers_scale_their_losses_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, bool], expected: tuple[bool, bool]
) -> None:
    monkeypatch.setattr(module, "half_precision", lambda: torch.float16)
    made = arguments(trl.DPOConfig, tmp_path, 0, given)
    assert (made.bf16, made.fp16) == expected


def test_float16_on_a_cpu_is_refused_since_nothing_would_be_computed_in_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="trainer: fp16, but there is no GPU"):
        arguments(trl.DPOConfig, tmp_path, 0, {"fp16": True})


def test_a_float16_base_without_scaled_losses_is_refused(bases: Bases, tmp_path: Path) -> None:
    found = dpo(bases(), tmp_path)
    found.model.half()
    with pytest.raises(RunError, match="the base is in float16 on this GPU, .* leave out `bf16: false` and"):
        record_curves(found, lambda step, numbers: None)


def test_activations_are_offloaded_from_a_gpu_alone(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="activation_offloading, but there is no GPU"):
        arguments(trl.DPOConfig, tmp_path, 0, {"activation_offloading": True})
