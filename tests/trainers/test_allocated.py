"""Adam's state is there before the first pass, and changes nothing of a training."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from marks import slow
from transformers import TrainerCallback

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.trainers.optimizer_state import AllocatesState, allocate

from .conftest import losses, trained
from .online_parts import Bases, trainer
from .test_recovery import dpo, reward, sft


class Seen(TrainerCallback):
    """Notes the optimizer's state before the first pass."""

    def __init__(self) -> None:
        self.first: list[dict[str, Any]] = []

    def on_step_begin(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
        if not self.first:
            self.first = [deepcopy(dict(state)) for state in optimizer.state.values()] or [{}]


def online(base: Base, folder: Path) -> Any:
    return trainer(base, folder, max_steps=4)


@pytest.mark.parametrize("make", [dpo, *slow(sft, online, reward)])
@pytest.mark.parametrize("optim", ["adamw_torch_fused", *slow("adamw_torch")])
def test_a_training_is_the_same_to_the_bit(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, optim: str
) -> None:
    base, found = bases(), []
    for allocates in (True, False):
        if not allocates:
            monkeypatch.setattr(AllocatesState, "on_train_begin", lambda *_, **__: None)
        torch.manual_seed(0)
        one = make(Base(base.path, adapter=Adapter(r=4)), tmp_path / str(allocates))
        one.args.optim, one.args.weight_decay = optim, 0.1
        one.add_callback(seen := Seen())
        found.append((losses(one), trained(one)))
        assert (seen.first != [{}]) == allocates
        for state in seen.first if allocates else ():
            assert not any(value.any() for value in state.values())
    assert found[0][0] == found[1][0]
    assert all(torch.equal(ours, found[1][1][name]) for name, ours in found[0][1].items())


def test_what_has_a_state_keeps_it_and_gradients_stay() -> None:
    one, other, frozen = (torch.nn.Parameter(torch.ones(3), requires_grad=n < 2) for n in range(3))
    optimizer = torch.optim.AdamW([one, other, frozen], amsgrad=True)
    one.grad = torch.ones(3)
    optimizer.step()
    before, weights = {name: value.clone() for name, value in optimizer.state[one].items()}, one.detach().clone()
    allocate(optimizer)
    assert all(torch.equal(value, before[name]) for name, value in optimizer.state[one].items())
    assert optimizer.state[other].keys() == before.keys()
    assert frozen not in optimizer.state
    assert torch.equal(one, weights)
    assert torch.equal(one.grad, torch.ones(3))
    assert other.grad is None
