"""Regularizers by hand, and added to the loss of each training once per optimizer step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_plugins.components.regularizer import L2SP
from rlhf_plugins.contract.run_kinds import Regularizer
from rlhf_plugins.errors import ComponentError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

FEW = {"max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True}
ROLLOUT = {"reward": "gold", "trainer": {**FEW, "per_device_train_batch_size": 8, "num_generations": 4}}
STAGES = {name: {"trainer": FEW} for name in ("sft", "reward", "preference")} | {"online": ROLLOUT}
every_stage = pytest.mark.parametrize("name", STAGES)
accumulated = pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 2])


def test_l2_sp_by_hand() -> None:
    """Weights move from (1, 2) to (1, 5), and one that is frozen moves too: 0.5 / 2 * 3^2 = 2.25, slope 0.5 * 3."""
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        penalty = L2SP(strength=0.5).build(None, model)  # type: ignore[arg-type]
        model.weight += torch.tensor([[0.0, 3.0]])
        model.bias += 9.0
    found = penalty()
    found.backward()
    assert found.item() == 2.25
    assert model.weight.grad.tolist() == [[0.0, 1.5]]  # type: ignore[union-attr]


def curves(name: str, accumulation: int, strength: float, folder: Path) -> Any:
    """What a training with L2-SP logs of it, by step."""
    words = {**STAGES[name], "regularizers": [{"use": "l2_sp", "strength": strength}]}
    words["trainer"] = {**words["trainer"], "gradient_accumulation_steps": accumulation}  # type: ignore[dict-item]
    if name == "online":
        words["trainer"] |= {"steps_per_generation": accumulation, "max_completion_length": 6}
    stage = component("stage", {"use": name, **words})
    run = tiny_run(tiny_base(folder / "base"), folder / f"run{strength}", tiny_pairs(32))
    return dict(stage.run(run).curves["regularizer/l2_sp"].points)


@every_stage
@accumulated
def test_every_training_logs_it_and_holds_its_weights(tmp_path: Path, name: str, accumulation: int) -> None:
    weak, strong = (curves(name, accumulation, strength, tmp_path) for strength in (1e-6, 100.0))
    assert list(weak) == [1, 2, 3]
    assert weak[1] == strong[1] == 0  # where the weights start
    assert 0 < strong[3] / 100.0 < 0.9 * weak[3] / 1e-6  # it holds them there


@every_stage
@accumulated
def test_every_training_adds_its_gradient_once_per_step(
    tmp_path: Path, name: str, accumulation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight's gradient grows with every micro-batch, and then by strength (theta - theta_0)."""
    grads, moved, build = list[Tensor](), list[Tensor](), L2SP.build

    def watched(self: L2SP, run: Any, model: nn.Module) -> Any:
        penalty = build(self, run, model)
        weights = [each for each in model.parameters() if each.requires_grad][-1]
        start = weights.detach().clone()
        weights.register_post_accumulate_grad_hook(lambda now: grads.append(now.grad.clone()))  # type: ignore[union-attr]
        return lambda: moved.append(weights.detach() - start) or penalty()  # type: ignore[func-returns-value]

    monkeypatch.setattr(L2SP, "build", watched)
    curves(name, accumulation, 2.0, tmp_path)
    assert (len(moved), len(grads)) == (3, 3 * (accumulation + 1))
    steps = range(accumulation, len(grads), accumulation + 1)
    for place, change in zip(steps, moved, strict=True):
        torch.testing.assert_close(grads[place] - grads[place - 1], 2.0 * change, rtol=1e-3, atol=1e-6)
    assert moved[-1].any()


class Constant(Regularizer):
    def build(self, run: Any, model: nn.Module) -> Any:
        return lambda: torch.tensor(1.0)


def test_a_term_without_a_gradient_is_refused() -> None:
    with pytest.raises(ComponentError, match="Constant of .* gave numbers without a gradient"):
        Constant().build(None, nn.Linear(1, 1))()  # type: ignore[arg-type]
