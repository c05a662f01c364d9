"""Regularizers by hand, and added to the loss of each training once per optimizer step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rlhf_plugins.components.regularizer import L2SP
from rlhf_plugins.contract.interfaces import Regularizer
from rlhf_plugins.errors import ComponentError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

FEW = {"max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True}
ROLLOUT = {"reward": "gold", "trainer": {**FEW, "per_device_train_batch_size": 8, "num_generations": 4}}
STAGES = {name: {"trainer": FEW} for name in ("sft", "reward", "preference")} | {"online": ROLLOUT}


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


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_training_adds_it_once_per_step_and_logs_it(tmp_path: Path, name: str, accumulation: int) -> None:
    def curves(strength: float) -> Any:
        words = {**STAGES[name], "regularizers": [{"use": "l2_sp", "strength": strength}]}
        words["trainer"] = {**words["trainer"], "gradient_accumulation_steps": accumulation}  # type: ignore[dict-item]
        if name == "online":
            words["trainer"] |= {"steps_per_generation": accumulation, "max_completion_length": 6}
        stage = component("stage", {"use": name, **words})
        base = tiny_base(tmp_path / "base")
        return stage.run(tiny_run(base, tmp_path / f"run{strength}", tiny_pairs(32))).curves

    weak, strong = (dict(curves(strength)["regularizer/l2_sp"].points) for strength in (1e-6, 100.0))
    assert list(weak) == [1, 2, 3]
    assert weak[1] == strong[1] == 0  # where the weights start
    assert 0 < strong[3] / 100.0 < 0.9 * weak[3] / 1e-6  # it holds them there


class Constant(Regularizer):
    def build(self, run: Any, model: nn.Module) -> Any:
        return lambda: torch.tensor(1.0)


def test_a_term_without_a_gradient_is_refused() -> None:
    with pytest.raises(ComponentError, match="Constant of .* gave numbers without a gradient"):
        Constant().build(None, nn.Linear(1, 1))()  # type: ignore[arg-type]
