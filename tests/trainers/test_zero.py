"""What a training under DeepSpeed's ZeRO refuses, and when a micro-batch is a step; the trainings are in tests/run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf_plugins import RunError
from rlhf_plugins.contract import processes
from rlhf_plugins.trainers import zero
from rlhf_plugins.trainers.steps import micro_batches
from rlhf_plugins.trainers.zero import DIVISION, refuse_in_parts, refuse_other_division, refuse_untried

ARGS = {
    **{"bf16": False, "fp16": False},
    **{"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3, "max_grad_norm": 1.0},
}


def trainer(config: dict[str, Any] | None = None, enabled: bool = True, **args: Any) -> Any:
    """A trainer as far as the checks read it."""
    plugin = SimpleNamespace(deepspeed_config=config or {}, zero_stage=2)
    state = SimpleNamespace(deepspeed_plugin=plugin)
    given = SimpleNamespace(**ARGS | args)
    return SimpleNamespace(accelerator=SimpleNamespace(state=state), args=given, is_deepspeed_enabled=enabled)


def test_what_the_recipe_says_too_is_taken() -> None:
    refuse_untried(trainer({"gradient_accumulation_steps": 2, "gradient_clipping": "auto"}), False)
    refuse_untried(trainer({"train_micro_batch_size_per_gpu": 3, "train_batch_size": 6}), False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (trainer(enabled=False), "accelerate leaves it out here"),
        (
            trainer(fp16=True),
            "trainer.fp16: was not tried under DeepSpeed: write `trainer: {fp16: false}`",
        ),
        (trainer(precompute_ref_log_probs=False), "precompute_ref_log_probs: false: was not tried under DeepSpeed"),
        (
            trainer({"gradient_clipping": 0.5}),
            "gradient_clipping: 0.5, and the recipe trains with trainer.max_grad_norm",
        ),
        (
            trainer({"train_batch_size": 8}),
            "train_batch_size: 8, and the recipe trains with a batch of all processes: 6",
        ),
    ],
)
def test_what_was_not_tried_is_refused(given: Any, message: str) -> None:
    with pytest.raises(RunError) as caught:
        refuse_untried(given, False)
    assert message in str(caught.value)


def test_quantized_bases_are_refused() -> None:
    with pytest.raises(RunError, match="quantization: was not tried under DeepSpeed"):
        refuse_untried(trainer(), True)


def test_what_was_not_tried_in_parts_is_refused_under_fsdp_too() -> None:
    how = "with weights in shards (FSDP)"
    refuse_in_parts(trainer(fp16=True), False, how)
    given = trainer()
    given.regularizers = {"l2_sp": 0.0}
    with pytest.raises(RunError) as caught:
        refuse_in_parts(given, False, how)
    assert str(caught.value) == f"regularizers: was not tried {how}: leave this out, or launch with DDP"


def test_a_checkpoint_of_an_optimizer_in_other_parts_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = {DIVISION: "in 4 parts of ZeRO-1 by DeepSpeed 1.0"}
    refuse_other_division(trainer(), tmp_path, {"state": {}})
    with pytest.raises(RunError, match="in 4 parts of ZeRO-1 by DeepSpeed 1.0, and this launch has one as a whole"):
        refuse_other_division(trainer(), tmp_path, other)
    monkeypatch.setattr(processes, "divides_optimizer", lambda: True)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(zero, "version", lambda name: "1.0")
    with pytest.raises(RunError, match="as a whole, and this launch has one in 2 parts of ZeRO-2 by DeepSpeed 1.0"):
        refuse_other_division(trainer(), tmp_path, {"state": {}})


@pytest.mark.parametrize("syncs", [True, False])
def test_a_micro_batch_is_no_step_where_processes_divide_the_optimizer(
    monkeypatch: pytest.MonkeyPatch, syncs: bool
) -> None:
    monkeypatch.setattr(processes, "divides_optimizer", lambda: True)
    state = SimpleNamespace(sync_gradients=syncs)
    state._set_sync_gradients = lambda value: setattr(state, "sync_gradients", value)
    with micro_batches.without_step(SimpleNamespace(gradient_state=state), None):
        assert not state.sync_gradients
    assert state.sync_gradients is syncs


def test_deepspeed_is_configured_in_float32_where_products_are_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "divides_optimizer", lambda: True)
    given, plugin = trainer(bf16=True, mixed_precision="bf16"), SimpleNamespace(deepspeed_config={})
    given.args.deepspeed_plugin = plugin
    with zero.configuring(given):
        assert (given.args.bf16, given.args.mixed_precision) == (False, "no")
    assert (given.args.bf16, given.args.mixed_precision) == (True, "bf16")
    assert plugin.deepspeed_config == {"bf16": {"enabled": False}, "zero_force_ds_cpu_optimizer": False}
    assert given.accelerator.autocast_handler.to_kwargs() == {"dtype": torch.bfloat16}
