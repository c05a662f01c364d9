"""A script for trl.GRPOTrainer runs with our trainer after one changed import, and trains and logs the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset

import rlhf_plugins
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.loading import lora_config

from .conftest import furthest, trained

Bases = Callable[..., Base]
OURS, STOCK = rlhf_plugins.OnlineTrainer, trl.GRPOTrainer
PLAIN = {"bf16": False, "use_cpu": True, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True}
SHORT = {"max_steps": 4, "logging_steps": 1, "learning_rate": 1e-2, "max_completion_length": 6}
SIZES = {"per_device_train_batch_size": 6, "num_generations": 3}
TIMES = ("runtime", "_per_second", "total_flos", "step_time")  # ends of names of times and work
KL = ("beta", "use_bias_correction_kl")


def ants(completions: list[Any], **_: Any) -> list[float]:
    texts = [each if isinstance(each, str) else each[0]["content"] for each in completions]
    return [float(text.split().count("ant")) + 0.1 * len(text) for text in texts]


def rows(count: int = 12) -> Dataset:
    return Dataset.from_list([{"prompt": f"how{' ant' * (i % 4)}", "bonus": float(i)} for i in range(count)])


def injected(self: Any, prompt_ids: list[Any], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
    """Completions of 1 to 6 tokens that differ from step to step, and end with EOS or not."""
    at = self.state.global_step
    return [[1 + (7 * i + 5 * t + at) % 16 for t in range(1 + (i + at) % 6)] for i in range(len(prompt_ids))], None


@pytest.fixture(autouse=True)
def generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl.GRPOTrainer, "_generate_single_turn", injected)


def script(cls: Any, base: Base, folder: Path, options: dict[str, Any] | None = None, **given: Any) -> Any:
    """What a script does: a model by its name, unless it has loaded one, and rows as TRL has them."""
    args = trl.GRPOConfig(str(folder), **{**PLAIN, **SHORT, **SIZES, **(options or {})})
    whole = {"model": base.path, "reward_funcs": ants, "train_dataset": rows(), **given}
    return cls(args=args, **whole)


def lines(trainer: Any) -> list[dict[str, float]]:
    """Everything that was logged so far, but for times."""
    return [{k: v for k, v in line.items() if not k.endswith(TIMES)} for line in trainer.state.log_history]


def assert_alike(ours: Any, theirs: Any) -> None:
    """Both train, log the same under TRL's names, and end with the same weights."""
    for each in (ours, theirs):
        each.train()
    for found, expected in zip(lines(ours), lines(theirs), strict=True):
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert furthest(trained(ours), trained(theirs)) < 1e-4


def test_the_constructor_is_trls_with_keywords_more() -> None:
    found, theirs = (list(inspect.signature(cls).parameters) for cls in (OURS, STOCK))
    assert found[: len(theirs)] == theirs
    assert found[len(theirs) :][:5] == ["reward", "advantage", "policy_loss", "reduction", "kl"]


@pytest.mark.parametrize("adapter", [None, Adapter(r=4)], ids=["full", "lora"])
def test_a_script_trains_and_logs_as_with_trl(bases: Bases, tmp_path: Path, adapter: Adapter | None) -> None:
    given = {"peft_config": lora_config(adapter, "CAUSAL_LM") if adapter else None}
    ours, theirs = (script(cls, bases(), tmp_path, {}, **given) for cls in (OURS, STOCK))
    assert ours.obstacle is None
    assert_alike(ours, theirs)
