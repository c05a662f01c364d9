"""A base with damaged weights trains nothing, and no training that changed nothing passes for one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf_plugins import Adapter, Base, DataFormat, PluginError, Run, RunError, Stage, StageResult, session, uses
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.testing import tiny_base, tiny_run

TRAINER = {"max_steps": 2, "per_device_train_batch_size": 2, "disable_tqdm": True, "logging_steps": 1}


def damaged(folder: Path, value: float) -> Base:
    base = replace(tiny_base(folder), adapter=Adapter(r=2))
    model = AutoModelForCausalLM.from_pretrained(base.path)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(value)
    model.save_pretrained(base.path)
    return base


@dataclass(frozen=True)
class Forgetful(Stage):
    """A stage that returns nothing."""

    name: str = "forgetful"
    data: DataFormat | None = uses("data_format", optional=True, tag="format")

    def run(self, run: Run) -> StageResult:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_do_not_load(tmp_path: Path, value: float) -> None:
    message = r"its weights model.layers.0.mlp.down_proj.weight hold NaN or infinite numbers: they are damaged"
    with pytest.raises(RunError, match=message):
        load_causal(damaged(tmp_path / "base", value))


@pytest.mark.parametrize("stage", ["sft", "preference"])
def test_a_training_without_a_gradient_fails(tmp_path: Path, stage: str) -> None:
    base = damaged(tmp_path / "base", 1e30)
    run = session(base, tiny_run(base, tmp_path / "rows").data, tmp_path / "run")
    with pytest.raises(RunError, match="the gradient was 0 at every step, so nothing was learned"):
        run.train({"use": stage, "trainer": TRAINER}, name=stage)


@pytest.mark.parametrize("data", [None, {"use": "sandbox", "prompts": 4}])
def test_a_stage_returns_a_result(tmp_path: Path, data: dict[str, object] | None) -> None:
    base = tiny_base(tmp_path / "base")
    run = session(base, tiny_run(base, tmp_path / "rows").data, tmp_path / "run")
    own = None if data is None else run.open("data_format", data)
    with pytest.raises(PluginError, match="returned a NoneType, not a StageResult"):
        run.train(Forgetful(data=own), name="part")
