"""A stage goes on with the optimizer of the policy that it starts from, where both say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from rlhf_plugins import Adapter, Run, RunError, session
from rlhf_plugins.testing import tiny_base, tiny_run
from rlhf_plugins.trainers.optimizer_state import FILE

TRAINER = {"max_steps": 2, "per_device_train_batch_size": 2, "disable_tqdm": True}
ROLLOUT = {**TRAINER, "num_generations": 2, "max_completion_length": 4}
KEEPS: dict[str, Any] = {"keep_optimizer": True, "trainer": TRAINER}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A session in which `sft` has kept its optimizer after two steps."""
    folder = tmp_path_factory.mktemp("optimizer")
    base = replace(tiny_base(folder / "base"), adapter=Adapter(r=2))
    run = session(base, tiny_run(base, folder / "rows").data, folder / "run")
    run.train({"use": "sft", **KEEPS}, name="sft")
    return run


def kept(run: Run, name: str, start: str | None = "sft", **stage: Any) -> dict[str, Tensor]:
    run.train({**KEEPS, **stage}, name=name, start=start)
    return load_file(Path(run.folder) / name / FILE)


@pytest.mark.parametrize("stage", [{"use": "preference"}, {"use": "online", "reward": "gold", "trainer": ROLLOUT}])
def test_steps_and_moments_go_on(run: Run, stage: dict[str, Any]) -> None:
    again = kept(run, f"again-{stage['use']}", optimizer="start", **stage)
    anew = kept(run, f"anew-{stage['use']}", **stage)
    steps = [key for key in anew if key.endswith("lora_B.default.weight/step")]
    assert {int(anew[key]) for key in steps} == {2}
    assert {int(again[key]) for key in steps} == {4}


def test_the_base_has_none(run: Run) -> None:
    with pytest.raises(RunError, match="optimizer: base kept no optimizer: write `keep_optimizer: true`"):
        kept(run, "base", None, use="preference", optimizer="start")
