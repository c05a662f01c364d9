"""An exported reward model that was trained on a quantized base says how far its rewards move, within a tolerance."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from rlhf_plugins import export_reward_model
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.engine.weights.loading import load_trunk, with_adapter
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_base


def saved(folder: Path, quantization: str | None) -> Path:
    base = tiny_base(folder / "base", hidden_size=64, head_dim=16, intermediate_size=128)
    base = replace(base, quantization=quantization, adapter=Adapter(r=4))
    torch.manual_seed(3)
    trunk = with_adapter(load_trunk(base), base.adapter)
    model = RewardModel(trunk, component("pooling", "last_token"), component("reward_head", "scalar"))
    torch.nn.init.normal_(model.head.weight)
    described = {"base": {k: v for k, v in asdict(base).items() if k not in ("trust_remote_code", "lengths")}}
    model.save(folder / "saved", {**described, "pooling": {"use": "last_token"}, "head": {"use": "scalar"}})
    return folder / "saved"


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_rewards_that_move_are_said_in_the_card_and_refused_beyond_the_tolerance(
    tmp_path: Path, quantization: str
) -> None:
    folder = saved(tmp_path, quantization)
    (note,) = export_reward_model(folder, tmp_path / "out", tolerance=10.0)
    assert note.startswith(f"Trained on the base in {quantization}, it is merged into the unquantized one: on a few")
    assert note in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(RunError, match="That is more than a share of 1e-06 .`tolerance`., so it is not exported"):
        export_reward_model(folder, tmp_path / "refused", tolerance=1e-6)
    assert not (tmp_path / "refused").exists()


def test_on_a_plain_base_nothing_moves(tmp_path: Path) -> None:
    assert export_reward_model(saved(tmp_path, None), tmp_path / "out", tolerance=0.0) == []
