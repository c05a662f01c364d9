"""A stage goes on with the optimizer of the policy that it starts from, where both say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_plugins import Adapter, Run, RunError, session
from rlhf_plugins.data.file_names import OPTIMIZER
from rlhf_plugins.run.files.checkpoints import Checkpoints
from rlhf_plugins.run.files.folder import cleared
from rlhf_plugins.testing import tiny_base, tiny_run
from rlhf_plugins.trainers import optimizer_state

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
    return load_file(Path(run.folder) / name / OPTIMIZER)


@pytest.mark.parametrize("stage", [{"use": "preference"}, {"use": "online", "reward": "gold", "trainer": ROLLOUT}])
def test_steps_and_moments_go_on(run: Run, stage: dict[str, Any]) -> None:
    again = kept(run, f"again-{stage['use']}", optimizer="start", **stage)
    fresh = kept(run, f"fresh-{stage['use']}", **stage)
    steps = [key for key in fresh if key.endswith("lora_B.default.weight/step")]
    assert {int(fresh[key]) for key in steps} == {2}
    assert {int(again[key]) for key in steps} == {4}


def test_a_critics_state_is_not_handed_on(run: Run) -> None:
    critic = {"advantage": "gae", "value": {"adapter": {"r": 2}}, "reward": "gold", "trainer": ROLLOUT}
    ppo = kept(run, "ppo", use="online", **critic)
    again = kept(run, "after-ppo", "ppo", use="preference", optimizer="start")
    assert ppo.keys() == again.keys()


def test_the_base_has_none(run: Run) -> None:
    with pytest.raises(RunError, match="optimizer: base kept no optimizer: write `keep_optimizer: true`"):
        kept(run, "base", None, use="preference", optimizer="start")


@pytest.mark.parametrize("metadata", [None, {"optimizer": "torch.optim.adamw.AdamW"}])
def test_a_file_of_an_older_version_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str] | None
) -> None:
    name = f"older-{bool(metadata)}"
    monkeypatch.setattr(optimizer_state, "save_file", lambda tensors, file, _: save_file(tensors, file, metadata))
    kept(run, name, use="sft")
    with pytest.raises(RunError, match=f"{name}/{OPTIMIZER}: was kept by an older version of rlhf-plugins: train with"):
        kept(run, f"after-{name}", name, use="sft", optimizer="start")


def test_weights_of_an_earlier_step_are_refused(run: Run) -> None:
    best = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    with pytest.raises(RunError, match="keep_optimizer: its state is the last step's"):
        kept(run, "best", use="preference", trainer={**TRAINER, **best})


@pytest.mark.parametrize("finished", [True, False])
def test_it_stays_where_a_stage_goes_on_after_its_training(tmp_path: Path, finished: bool) -> None:
    state = {"finished": finished, "files": {}, "best": []}
    Checkpoints(tmp_path).write(2, state, {"w": torch.zeros(1)}, "{}", 1)
    (tmp_path / OPTIMIZER).touch()
    (tmp_path / "model").mkdir()
    cleared(tmp_path)
    assert (tmp_path / OPTIMIZER).exists() is finished
    assert not (tmp_path / "model").exists()
