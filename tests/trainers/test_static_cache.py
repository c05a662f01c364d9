"""Rollouts that are generated over a static cache: what samples is what learns, and training frees the cache."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.engine import FastPath, decoding
from rlhf_plugins.engine.static.loop import StaticLoop
from rlhf_plugins.engine.static.slots import Slots
from rlhf_plugins.engine.token_budget import room
from rlhf_plugins.trainers.ppo.options import Exploration, Objective

from .online_parts import Bases, logged, objective, trainer
from .test_turns import in_turns

AIMS = {"ppo": objective(), "grpo": objective(advantage="grpo"), "conversations": in_turns()}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Slots and capacity of every static cache; this device counts as one where there are some."""
    found: list[tuple[int, int]] = []
    init = Slots.__init__

    def noted(self: Slots, model: Any, like: Any, count: int, capacity: int, drawing: Any) -> None:
        init(self, model, like, count, capacity, drawing)
        found.append((count, capacity))

    monkeypatch.setattr(Slots, "__init__", noted)
    monkeypatch.setattr(decoding, "STATIC_CACHE", FastPath("over slots", None, None, autocast=True))
    return found


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("aim", AIMS.values(), ids=AIMS)
def test_what_samples_is_what_learns(
    bases: Bases, tmp_path: Path, made: list[tuple[int, int]], aim: Objective, recomputes: bool
) -> None:
    found = trainer(bases(), tmp_path, aim, temperature=0.8, max_steps=4, gradient_checkpointing=recomputes)
    with room(None, cache=2 * 128):
        found.train()
    assert all(0 <= kl < 1e-10 for kl in logged(found, "sampling/kl"))
    assert made[0] == (4, 32)  # of the trial
    assert set(made[1:]) == {(2, 128)}
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Slots)]


def test_a_policy_that_explores_is_sampled_by_transformers(
    bases: Bases, tmp_path: Path, made: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("over slots")

    monkeypatch.setattr(StaticLoop, "_respond", refuse)
    found = trainer(bases(), tmp_path, objective(exploration=Exploration(0.3, 5.0)), temperature=0.8, max_steps=2)
    found.train()
    assert logged(found, "sampling/kl")
    assert not made
