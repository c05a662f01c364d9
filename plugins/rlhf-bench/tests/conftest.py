"""A suite of two tiny algorithms on a random model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_plugins.testing import tiny_base

TRAINER = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}


def words(folder: Path) -> dict[str, Any]:
    """One task, DPO and IPO, two seeds."""
    return {
        "base": tiny_base(folder / "base").path,
        "adapter": {"r": 2},
        "seeds": [1, 2],
        "budget": {"flops": 1e12},
        "baseline": "dpo",
        "evaluate": {"prompts": 4, "best_of": 1, "ceiling": 2, "max_new_tokens": 4, "tasks": ["rouge_l"]},
        "tasks": {"clean": {"data": {"format": "sandbox", "writer": "sloppy", "prompts": 4, "test_prompts": 4}}},
        "algorithms": {
            name: {"stages": [{"stage": "preference", "name": name, "loss": name, "trainer": TRAINER}]}
            for name in ("dpo", "ipo")
        },
        "quick": {"seeds": [1]},
    }


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., Path]:
    """Writes the suite with changes, and gives its file."""

    def write(**changes: Any) -> Path:
        file = tmp_path / "small.yaml"
        file.write_text(yaml.safe_dump({**words(tmp_path), **changes}))
        return file

    return write
