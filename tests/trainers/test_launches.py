"""What a training step launches on a GPU, counted on a CPU: no stage launches or casts more than it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from launches import Launches
from marks import slow

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine import casts, loading
from rlhf_plugins.engine.loading import load_tokenizer, load_trunk, with_adapter
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments

from . import test_recovery, test_recovery_online
from .conftest import OPTIONS, ranked, reward_trainer
from .online_parts import Bases, objective, rolled_out, trainer
from .test_recovery import dpo, sft

MOST = {"sft": (81, 605), "reward": (104, 1066), "dpo": (137, 1503), "online": (88, 849)}  # casts, all launches


def reward(base: Base, folder: Path) -> Any:
    trunk = with_adapter(load_trunk(base), Adapter(r=4), "FEATURE_EXTRACTION")
    model = RewardModel(trunk, component("pooling", "last_token"), component("reward_head", "scalar"))
    args, loss = arguments(trl.RewardConfig, folder, 0, OPTIONS), component("reward_loss", "bradley_terry")
    return reward_trainer(model, loss, args, ranked(base, tiny_pairs(8)), load_tokenizer(base))


def online(base: Base, folder: Path) -> Any:
    found: Any = trainer(base, folder, objective(), bf16=True)
    found._experience = rolled_out(found, test_recovery_online.PROMPTS)
    found._experience.first = None
    return found


def counted(found: Any) -> tuple[int, int]:
    step: Any = test_recovery_online.step if hasattr(found, "_experience") else test_recovery.step
    under = Launches()
    step(found, under)
    return under.casts, under.all


@pytest.mark.parametrize("make", [dpo, online, *slow(sft, reward)])
def test_a_step_launches_and_casts_no_more_than_it_did(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    """In bfloat16 with float32 adapters, as on a GPU; without the cast of PEFT's that autocast undoes."""
    monkeypatch.setattr(loading, "_dtype", lambda base: torch.bfloat16)
    monkeypatch.setitem(OPTIONS, "bf16", True)
    base = Base(bases().path, adapter=Adapter(r=4))
    found = make(base, tmp_path)
    found.accelerator.prepare_model(found.model)
    counted(found)  # tries layouts
    own = counted(found)
    monkeypatch.setattr(casts, "agree", lambda *_: False)
    theirs = counted(found)
    assert own < theirs
    assert theirs[1] - own[1] == theirs[0] - own[0]
    most = MOST[make.__name__]
    assert own[0] <= most[0], f"{own[0]} casts"
    assert own[1] <= most[1], f"{own[1]} launches"
