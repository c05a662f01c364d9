"""A script for trl.DPOTrainer runs with our trainer after one changed import, and trains and logs the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset
from marks import slow
from trl_rows import preference_dataset

import rlhf_plugins
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.weights.loading import lora_config
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_pairs, tiny_run

Bases = Callable[..., Base]
OURS, STOCK = rlhf_plugins.PreferenceTrainer, trl.DPOTrainer
PLAIN = {"bf16": False, "use_cpu": True, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True}
SHORT = {"max_steps": 4, "per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 3e-3}
UNEQUAL = ("runtime", "_per_second", "total_flos", "preparation_time", "step")  # ends of names of times and work


def rows(count: int = 16, seed: int = 0) -> Dataset:
    return preference_dataset(tiny_pairs(count, seed))


def config(folder: Path, **options: Any) -> trl.DPOConfig:
    return trl.DPOConfig(str(folder), **{**PLAIN, **SHORT, **options})


def script(cls: Any, base: Base, folder: Path, options: dict[str, Any], **given: Any) -> Any:
    """What a script does: a model by its name, unless it has loaded one, and rows as TRL has them."""
    whole = {"model": base.path, "train_dataset": given.pop("train", None) or rows(), **given}
    return cls(args=config(folder, **options), **whole)


def logged(trainer: Any) -> list[dict[str, float]]:
    """Everything that a training logs, but for times."""
    trainer.train()
    return lines(trainer)


def lines(trainer: Any) -> list[dict[str, float]]:
    """Everything that was logged so far, but for times."""
    return [{k: v for k, v in line.items() if not k.endswith(UNEQUAL)} for line in trainer.state.log_history]


def assert_equal(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_the_constructor_is_trls_with_keywords_more() -> None:
    found, theirs = (list(inspect.signature(cls).parameters) for cls in (OURS, STOCK))
    assert found == [*theirs, "loss", "tokens_per_batch", "reference_cache", "reference_identity"]


@pytest.mark.parametrize(
    ("loss", "adapter"),
    [("sigmoid", Adapter(r=4)), ("ipo", None), *slow(("sigmoid", None), ("ipo", Adapter(r=4)))],
    ids=["sigmoid-lora", "ipo-full", "sigmoid-full", "ipo-lora"],
)
def test_a_script_trains_and_logs_as_with_trl(bases: Bases, tmp_path: Path, loss: str, adapter: Adapter | None) -> None:
    given = {"peft_config": lora_config(adapter, "CAUSAL_LM") if adapter else None}
    options = {"loss_type": [loss], "beta": 0.3}
    found, expected = (logged(script(cls, bases(), tmp_path, options, **given)) for cls in (OURS, STOCK))
    assert_equal(found, expected)
    assert {"rewards/margins", "logps/chosen", "logits/rejected", "entropy", "mean_token_accuracy"} <= found[0].keys()


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 3},
        *slow(
            {"gradient_checkpointing": True},
            {"max_length": 4, "truncation_mode": "keep_end", "loss_type": ["ipo"]},
            {"dataloader_num_workers": 1},
        ),
    ],
    ids=lambda options: " ".join(options),
)
def test_so_it_does_under_transformers_options(bases: Bases, tmp_path: Path, options: dict[str, Any]) -> None:
    given = {"peft_config": lora_config(Adapter(r=4), "CAUSAL_LM")}
    assert_equal(*(logged(script(cls, bases(), tmp_path, options, **given)) for cls in (OURS, STOCK)))


def test_columns_of_another_reference_are_read_no_more_than_by_trl(bases: Bases, tmp_path: Path) -> None:
    """Both compute the reference where `precompute_ref_log_probs` is not set: at the first step all rewards are 0."""
    stale = rows().add_column("ref_chosen_logps", [-9.0] * 16).add_column("ref_rejected_logps", [-1.0] * 16)
    found, expected = (logged(script(cls, bases(), tmp_path, {}, train=stale)) for cls in (OURS, STOCK))
    assert_equal(found, expected)
    assert found[0]["rewards/chosen"] == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_trls_default_precision_trains_as_with_trl(bases: Bases, tmp_path: Path) -> None:
    """bfloat16 and gradient checkpointing; they differ by rounding."""
    options = {"bf16": True, "gradient_checkpointing": True}
    found, expected = (logged(script(cls, bases(), tmp_path, options)) for cls in (OURS, STOCK))
    for one, other in zip(found[:-1], expected[:-1], strict=True):
        assert (one["loss"], one["grad_norm"]) == pytest.approx((other["loss"], other["grad_norm"]), rel=0.02)


@pytest.mark.parametrize(("loss_type", "loss"), [("sigmoid", "dpo"), *slow(("ipo", "ipo_per_token"))])
def test_a_recipes_stage_trains_and_logs_as_the_script(bases: Bases, tmp_path: Path, loss_type: str, loss: str) -> None:
    base = replace(bases(), adapter=Adapter(r=4))
    stage = component("stage", {"use": "preference", "loss": loss, "trainer": {**SHORT, "disable_tqdm": True}})
    curves = stage.run(tiny_run(base, tmp_path / "run", tiny_pairs(16))).curves
    adapter = lora_config(Adapter(r=4), "CAUSAL_LM")
    lines = logged(script(OURS, base, tmp_path, {"loss_type": [loss_type], "seed": 0}, peft_config=adapter))
    for name in ("loss", "rewards/margins", "logps/rejected", "entropy", "grad_norm"):
        found = [value for _, value in curves[name].points]
        assert found == pytest.approx([line[name] for line in lines if name in line], rel=1e-4, abs=1e-5)
