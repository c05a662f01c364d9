"""A training ends at the step at which its budget is spent, and keeps its work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from rlhf_plugins.contract.run import Budget
from rlhf_plugins.engine.cost import counting
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.testing import tiny_base
from rlhf_plugins.trainers.watching.budget import shared_budget, spending


def trainer(folder: Path, steps: int = 6) -> Any:
    rows = Dataset.from_list([{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}] * 2)
    args = TrainingArguments(
        str(folder / "out"), max_steps=steps, per_device_train_batch_size=2, report_to="none", disable_tqdm=True,
        use_cpu=True, save_strategy="no",
    )  # fmt: skip
    return Trainer(load_causal(tiny_base(folder / "base")).train(), args, train_dataset=rows)


@pytest.fixture(scope="module")
def step_flops(tmp_path_factory: pytest.TempPathFactory) -> float:
    with counting() as counter:
        trainer(tmp_path_factory.mktemp("one"), steps=1).train()
    return counter.flops


def test_flops_end_a_training_at_the_step_that_reaches_them(tmp_path: Path, step_flops: float) -> None:
    made = trainer(tmp_path)
    with counting() as counter, spending(made, Budget(flops=2.5 * step_flops)) as spent:
        made.train()
    assert made.state.global_step == 3
    assert spent.metrics == {"budget": {"limit": "flops", "step": 3, "of": 6}}
    assert counter.flops == pytest.approx(3 * step_flops)
    assert counter.cost().trained_tokens == 3 * 8


def test_seconds_end_a_training_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = trainer(tmp_path)
    with spending(made, Budget(seconds=0.0)):
        made.train()
    assert made.state.global_step == 1
    assert "The budget of 0 seconds ended the training at step 1 of 6." in caplog.text


@pytest.mark.parametrize("budget", [None, Budget(), Budget(flops=1e18, seconds=1e6)])
def test_a_budget_that_is_not_spent_changes_nothing(tmp_path: Path, budget: Budget | None) -> None:
    made = trainer(tmp_path, steps=2)
    with spending(made, budget) as spent:
        made.train()
    assert made.state.global_step == 2
    assert spent.metrics == {}


def test_several_trainings_share_a_budget_equally() -> None:
    assert shared_budget(Budget(flops=9.0), 3) == Budget(flops=3.0)
    assert shared_budget(None, 3) is None
