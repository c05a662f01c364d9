"""Trainers over the tiny base, ours and TRL's own, and what they logged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from rlhf_plugins import RewardTrainer
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.ranked import RankedRows, ranked_rows
from rlhf_plugins.data.batches.tokens import encode
from rlhf_plugins.engine.weights.loading import load_tokenizer
from rlhf_plugins.testing import tiny_base

OPTIONS: dict[str, Any] = {
    "max_steps": 5,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "learning_rate": 3e-3,
    "disable_tqdm": True,
}


def ranked(base: Base, groups: Iterable[Group], max_length: int | None = None) -> RankedRows:
    """Groups as the rows that a reward trainer takes, whatever can be learned from them."""
    tokenizer = load_tokenizer(base)
    return ranked_rows(groups, lambda p, r: encode(tokenizer, p, r), max_length, lambda g: len(g.responses) > 1)


def reward_trainer(model: Any, loss: Any, args: Any, rows: Any, tokenizer: Any, **own: Any) -> RewardTrainer:
    """Our trainer of a `RewardModel` on ranked rows."""
    return RewardTrainer(model, args, train_dataset=rows, processing_class=tokenizer, loss=loss, **own)


def losses(trainer: Any) -> list[float]:
    """The loss of every step of a training."""
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained(trainer: Any) -> dict[str, Tensor]:
    """The weights that were trained, by name."""
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference of any weight of the same name."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).abs().max()) for name in found)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Base]:
    made: dict[str, Base] = {}

    def base(architecture: str = "llama", **options: Any) -> Base:
        key = f"{architecture} {options}"
        if key not in made:
            folder: Path = tmp_path_factory.mktemp(architecture)
            made[key] = tiny_base(folder, architecture, **options)
        return made[key]

    return base
