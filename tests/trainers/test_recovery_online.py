"""Out of memory in a training on own samples: the same step in smaller pieces, and samples for fewer prompts a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from marks import slow
from memory_full import Full

from rlhf_plugins.engine.layers import checkpointing
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.token_budget import cached_at_once

from .online_parts import Bases, logged, objective, rolled_out, trainer

GRPO: dict[str, Any] = {"advantage": "grpo", "kl": {"use": "in_loss", "coef": 0.1}}
PROMPTS = ["how is the"] * 3 + ["what"] * 3


def ready(base: Any, folder: Path, **aim: Any) -> Any:
    found: Any = trainer(base, folder, objective(**aim))
    found._experience = rolled_out(found, PROMPTS)
    found._experience.first = None
    return found


def step(found: Any, under: Full) -> tuple[list[torch.Tensor], float, dict[str, float]]:
    """The gradients, the loss and what is noted of a training step."""
    found.model.train().zero_grad()
    found._step_numbers.clear()
    found._recovery._most = None
    with under:
        loss = found._compute_loss(found.model, found._experience.parts[0])
    grads = [w.grad.clone() for w in found.model.parameters() if w.grad is not None]
    return grads, loss.item(), dict(found._step_numbers)


def assert_recovers(found: Any, every: int, first: int = 0) -> None:
    plain = step(found, under := Full())
    assert under.count > 100
    for at in range(first, under.count - 3, every):  # the last add up what was computed
        grads, loss, numbers = step(found, Full(at))
        for mine, theirs in zip(grads, plain[0], strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)
        assert loss == pytest.approx(plain[1], rel=1e-5, abs=1e-7)
        assert numbers == pytest.approx(plain[2], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("aim", [{}, *slow(GRPO)], ids=["ppo", "grpo"])
def test_at_operations_all_over_a_step(bases: Bases, tmp_path: Path, aim: dict[str, Any]) -> None:
    assert_recovers(ready(bases(), tmp_path, **aim), every=211)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(12))
@pytest.mark.parametrize("aim", [{}, GRPO], ids=["ppo", "grpo"])
def test_at_every_operation_of_an_online_step(bases: Bases, tmp_path: Path, aim: dict[str, Any], first: int) -> None:
    assert_recovers(ready(bases(), tmp_path, **aim), every=12, first=first)


@pytest.mark.slow
def test_a_training_goes_on_where_neither_samples_nor_steps_fit(
    bases: Bases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = trainer(bases(), tmp_path, max_steps=4, gradient_checkpointing=True)
    width = found.model.config.hidden_size
    layout_of(found.model)  # whose trial has more tokens than fit below
    with Full(most=16 * width):
        found.train()
    assert "generated again for fewer prompts" in caplog.text
    assert "tokens of a rollout at once: it is computed in parts" in caplog.text
    assert cached_at_once(found.model) is not None
    assert checkpointing(found.model)
    assert len(logged(found, "loss")) == 4


def test_outputs_of_a_rollout_s_only_micro_batch_are_left_where_it_is_cut(bases: Bases, tmp_path: Path) -> None:
    found = ready(bases(), tmp_path)
    plain = step(found, Full())
    (part,) = found._experience.parts[0]
    found._experience.first = found._models.outputs(part.batch, entropy=True)
    found.model.train().zero_grad()
    found._recovery._most = 1
    loss = found._compute_loss(found.model, [part])
    assert loss.item() == pytest.approx(plain[1], rel=1e-5, abs=1e-7)
    grads = [w.grad for w in found.model.parameters() if w.grad is not None]
    assert all(torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6) for mine, theirs in zip(grads, plain[0], strict=True))
