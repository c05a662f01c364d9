"""`max_grad_value` of every training stage clips gradients as torch does, after their norm was clipped."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from marks import slow
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from rlhf_plugins.contract import processes
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run
from rlhf_plugins.trainers.watching.supervision import clip_by_value

TRAINER = {"max_steps": 1, "learning_rate": 0.1, "optim": "sgd", "disable_tqdm": True}
ROLLOUT = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6}
STAGES: dict[str, dict[str, Any]] = {
    "sft": {},
    "reward_model": {},
    "reward_ensemble": {"members": 2},
    "preference": {},
    "online": {"reward": "gold"},
}


Gradients = list[list[Tensor]]  # of each weight, at each optimizer step


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Gradients:
    """The gradients with which SGD steps."""
    found: Gradients = []
    step = torch.optim.SGD.step

    def watched(self: Any, *given: Any) -> Any:
        weights = [each for group in self.param_groups for each in group["params"] if each.grad is not None]
        found.append([each.grad.clone() for each in weights])
        return step(self, *given)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    return found


def run(name: str, limit: float | None, norm: float, folder: Path) -> None:
    trainer = {**TRAINER, "max_grad_norm": norm, **(ROLLOUT if name == "online" else {})}
    stage = component("stage", {"use": name, **STAGES[name], "max_grad_value": limit, "trainer": trainer})
    stage.run(tiny_run(tiny_base(folder / "base"), folder / f"run{limit}", tiny_pairs(16)))


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("preference", 0.0),
        ("preference", 0.01),
        ("online", 0.01),
        *slow(*((name, 0.01) for name in STAGES if name not in ("preference", "online"))),
    ],
)
def test_each_stage_clips_as_torch_does(seen: Gradients, tmp_path: Path, name: str, norm: float) -> None:
    run(name, None, norm, tmp_path)
    weights = [nn.Parameter(torch.zeros_like(grad)) for grads in seen for grad in grads]
    for weight, grad in zip(weights, [grad for grads in seen for grad in grads], strict=True):
        weight.grad = grad.clone()
    nn.utils.clip_grad_value_(weights, 1e-4)
    seen.clear()
    run(name, 1e-4, norm, tmp_path)
    for weight, grad in zip(weights, [grad for grads in seen for grad in grads], strict=True):
        assert torch.equal(weight.grad, grad)  # type: ignore[arg-type]
    assert sum(grad.abs().max() == 1e-4 for grads in seen for grad in grads) > 5


@pytest.mark.parametrize(
    ("optim", "deepspeed"),
    [("galore_adamw_layerwise", None), (OptimizerNames.GALORE_ADAMW_LAYERWISE, None), ("adamw_torch", "zero.json")],
)
def test_it_is_refused_where_there_is_no_gradient_to_clip(optim: str, deepspeed: str | None) -> None:
    trainer = SimpleNamespace(args=SimpleNamespace(optim=optim, deepspeed=deepspeed))
    with pytest.raises(RunError, match="max_grad_value: (optim: galore.*|DeepSpeed) steps within the backward pass"):
        clip_by_value(trainer, 1.0)


def test_it_is_refused_where_processes_divide_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "divides_optimizer", lambda: True)
    trainer = SimpleNamespace(args=SimpleNamespace(optim="adamw_torch", deepspeed=None))
    with pytest.raises(RunError, match="max_grad_value: DeepSpeed steps within the backward pass"):
        clip_by_value(trainer, 1.0)


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.weight * x).sum()}


def test_scaled_gradients_are_unscaled_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient of (0.5, -4, 0.01), which is scaled by 64 until the step, is held within 0.1."""
    args = {"use_cpu": True, "bf16": False, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "report_to": "none"}
    options = TrainingArguments(str(tmp_path), **{**TRAINER, "learning_rate": 1.0, **args})
    found = Trainer(model=Line(), args=options, train_dataset=[{"x": torch.tensor([0.5, -4.0, 0.01])}])
    accelerator = found.accelerator
    monkeypatch.setitem(accelerator.state._shared_state, "_mixed_precision", "fp16")
    accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=64.0), True
    accelerator.autocast = nullcontext  # a CPU has no float16
    clip_by_value(found, 0.1)
    found.train()
    assert found.model.weight.tolist() == pytest.approx([0.9, 1.1, 0.99])
