"""The tables of docs/trainer_options.md hold every argument and option of TRL's trainers, and what they say happens."""

from __future__ import annotations

import dataclasses
import re
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trl

from rlhf_plugins.trainers.reward.classifier import obstacle_of

PAGE = (Path(__file__).parents[2] / "docs" / "trainer_options.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (`.*`) \| (engine|TRL's way|error) \|", re.MULTILINE)
PLAIN = trl.RewardConfig("nowhere", use_cpu=True, bf16=False)


def ways(trainer: str) -> dict[str, str]:
    """The way of each argument and option, by the tables for all trainers and for this one."""
    parts = [PAGE.partition(f"\n## {part}\n")[2].partition("\n## ")[0] for part in ("All three trainers", trainer)]
    found = ROW.findall("\n".join(parts))
    rows = [(name, way) for names, way in found for name in re.findall(r"`(\w+)`", names)]
    assert len(rows) == len(dict(rows)), "named twice"
    return dict(rows)


def test_every_argument_and_option_of_trls_reward_trainer_has_a_way() -> None:
    options = {field.name for field in dataclasses.fields(trl.RewardConfig)}
    arguments = set(signature(trl.RewardTrainer).parameters)
    assert ways("RewardTrainer").keys() == options | arguments


VALUES: dict[str, Any] = {
    "deepspeed": {"zero_optimization": {"stage": 1}},
    "fsdp": True,
    "include_for_metrics": ["inputs"],
    "include_num_input_tokens_seen": "all",
    "pad_to_multiple_of": 8,
    "parallelism_config": SimpleNamespace(tp_size=2),
}
THEIRS = [name for name, way in ways("RewardTrainer").items() if way == "TRL's way" and hasattr(PLAIN, name)]


@pytest.mark.parametrize("name", THEIRS)
def test_what_goes_trls_way_is_an_obstacle(name: str) -> None:
    """torch_compile_backend and torch_compile_mode set torch_compile, as TrainingArguments does."""
    asked = "torch_compile" if name.startswith("torch_compile") else name
    args = SimpleNamespace(**{**vars(PLAIN), asked: VALUES.get(asked, True)})
    launch = SimpleNamespace(num_processes=1, parallelism_config=args.parallelism_config)
    used = {f"is_{which}_enabled": bool(getattr(args, which)) for which in ("deepspeed", "fsdp")}
    trainer = SimpleNamespace(args=args, model=None, accelerator=launch, **used)
    assert re.search(f"{asked}|processes|DeepSpeed or FSDP", str(obstacle_of(trainer, own_collator=False)))
